"""Where a run is run, and where its pictures and scores are."""
