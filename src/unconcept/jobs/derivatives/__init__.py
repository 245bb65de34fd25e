"""Edits on fine-tunes and merges of the base that they were made for: one job a file."""
