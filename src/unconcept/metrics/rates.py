"""Shares with their intervals. Pure functions on 0/1 values; a rate without its count does not exist."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from ..core.errors import require

Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its 95 % interval and count."""

    value: float
    low: float
    high: float
    n: int
    clusters: int | None = None  # concepts, where the interval resamples them

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(hits: int, n: int) -> Rate:
    """Wilson's score interval: right near 0 and 1, for pictures taken as independent."""
    require(n > 0 and 0 <= hits <= n, f"a rate needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    p = hits / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z / (1 + Z * Z / n) * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Rate(p, min(p, max(0.0, middle - reach)), max(p, min(1.0, middle + reach)), n)


def clustered(values: Sequence[float], clusters: Sequence[str], draws: int = 2000, seed: int = 0) -> Rate:
    """Mean with a percentile bootstrap that resamples whole clusters (concepts), then pictures inside each.

    Values may be differences in [-1, 1], so that paired losses get an interval too.
    """
    require(len(values) == len(clusters) and len(values) > 0, f"{len(values)} values for {len(clusters)} cluster names")
    groups: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    members = list(groups.values())
    rng = random.Random(seed)
    means = []
    for _ in range(draws):
        total = count = 0.0
        for group in rng.choices(members, k=len(members)):
            total += sum(rng.choices(group, k=len(group)))
            count += len(group)
        means.append(total / count)
    means.sort()
    low, high = means[int(0.025 * draws)], means[int(0.975 * draws) - 1]
    return Rate(sum(map(float, values)) / len(values), low, high, len(values), len(members))
