"""What became of attacked prompts."""
