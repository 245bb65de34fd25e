"""The embedded models: one table of concepts, one form of captions and one judge for all, a folder for each."""
