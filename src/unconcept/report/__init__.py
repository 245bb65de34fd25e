"""Rows and pictures in, pages out."""
