"""Jobs that search for what an erasure finds hardest: one job a file."""
