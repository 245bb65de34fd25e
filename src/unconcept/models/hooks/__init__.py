"""Hooks on live networks; each leaves the model as it was."""
