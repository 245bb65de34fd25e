"""Pictures to train on, and where in them an object is."""
