"""Trials: compare edits with the unedited model on the same prompts and noise."""
