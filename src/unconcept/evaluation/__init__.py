"""Suites, tasks, judging and what comes of them."""
