"""Edits as files of other tools, and files of other tools as edits."""
