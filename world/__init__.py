"""Trains what `unconcept.moji` ships: the embedded text-to-image model and its judge. Not part of the package."""
