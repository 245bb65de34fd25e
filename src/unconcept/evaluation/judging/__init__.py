"""Judges pictures and turns the answers into rates."""
