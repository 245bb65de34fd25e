"""Runs a method on a request: defaults, the edit, its figures, what shows that it failed."""
