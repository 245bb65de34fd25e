"""Writes reports: takes rows and pictures, makes pages, tables, charts and JSON."""
