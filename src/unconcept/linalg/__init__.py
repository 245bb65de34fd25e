"""Tensors in, tensors out, float64 inside. No model, no text."""
