"""Trains what `unconcept.worlds` ships: the embedded text-to-image model and its judge. Not part of the package."""
