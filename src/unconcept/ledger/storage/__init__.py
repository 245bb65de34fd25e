"""What a ledger writes to the disk: its chain of entries, the private file beside it, and its artifacts."""
