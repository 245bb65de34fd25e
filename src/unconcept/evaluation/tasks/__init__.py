"""Tasks: units of work whose results are stored."""
