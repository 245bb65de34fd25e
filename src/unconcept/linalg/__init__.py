"""Linear algebra on plain tensors, in float64 inside. Knows neither models nor texts."""
