"""What is asked: prompts with their groups and seeds, sets of them, readers of published files. No torch."""
