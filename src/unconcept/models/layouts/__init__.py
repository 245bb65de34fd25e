"""Translates names of tensors between a diffusers folder and other layouts, in both directions."""
