"""Temporary hooks on live networks; each one restores the model afterwards."""
