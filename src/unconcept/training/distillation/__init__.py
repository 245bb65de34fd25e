"""Distils a model of many sampling steps into one of few: rollouts, scores, objectives, and their joint training."""
