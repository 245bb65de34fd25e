"""Runs that measure: the demo, the results tables, speed. Not part of the package."""
