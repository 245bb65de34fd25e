"""Jobs that protect pictures against personalisation, and prove how far."""
