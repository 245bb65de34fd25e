"""Noise schedules, samplers and autoencoders."""
