"""Edits asked the same questions as the unedited model."""
