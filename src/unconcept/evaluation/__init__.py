"""Evaluates edits: suites of prompts, tasks that draw and attack, judging, and reports."""
