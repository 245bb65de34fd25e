"""Runs a method on a request: defaults of the request, the edit, its figures, checks for failure."""
