"""Prompts with their groups and seeds, prompt sets, and readers of published prompt files. Needs no torch."""
