"""Metrics as pure functions of values. They know neither models nor files."""
