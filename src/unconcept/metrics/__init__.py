"""Pure functions on values; no model, no file."""
