"""Aggregates that one bad term drags down, named as in the papers.

Reports always show the terms beside them.
"""

import numpy as np

from ..core.errors import DataError, require
from .intervals import Array, ClusteredSample, Rate, resampled_statistic


def harmonic_mean(*terms: float) -> float:
    """Harmonic mean of terms in [0, 1]; 0 if one of them is 0."""
    require(len(terms) > 0, "a harmonic mean needs at least one term", DataError)
    require(all(0 <= term <= 1 for term in terms), f"terms {terms}: give shares in [0, 1], not percent", DataError)
    return 0.0 if 0 in terms else len(terms) / sum(1 / term for term in terms)


def harmonic_rate(*samples: ClusteredSample, draws: int = 2000, seed: int = 0) -> Rate:
    """Harmonic mean of the samples' means, with a bootstrap interval: each draw resamples clusters and recomputes H.

    Values are shares for which 1 is good, such as 1 for an erased person who was not recognised.
    """
    rate = resampled_statistic(samples, _harmonic_of, draws, seed)
    return Rate(rate.value, max(0.0, rate.low), min(1.0, rate.high), rate.n, rate.clusters)


def _harmonic_of(*means: Array) -> Array:
    terms = np.stack(means)
    found = np.zeros(terms.shape[1])
    positive = (terms > 0).all(0)
    found[positive] = len(terms) / (1 / terms[:, positive]).sum(0)
    return found


def h_c(acc_e: float, acc_s: float) -> float:
    """MACE's H_c for celebrities (SPEED prints it with Acc_r): erased ones not recognised, others recognised."""
    return harmonic_mean(1 - acc_e, acc_s)


def h_o(acc_e: float, acc_s: float, acc_g: float) -> float:
    """MACE's H_o for objects: target gone, other objects kept, target gone by its synonyms."""
    return harmonic_mean(1 - acc_e, acc_s, 1 - acc_g)


def h_a(clip_e: float, clip_s: float) -> float:
    """MACE's H_a for artists: CLIP score of the others minus that of the erased. A difference, not a mean."""
    return clip_s - clip_e
