"""Writes edits as files of other tools, and reads files of other tools as edits."""
