"""Judges: pictures to raw scores, decisions later."""
