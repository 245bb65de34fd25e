"""Shares and means with their counts and 95 % intervals, as pure functions of values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import numpy.typing as npt

from ..core.errors import require

_NORMAL_QUANTILE = 1.959963984540054  # the normal distribution's 97.5 % point
_BOOTSTRAP_CHUNK = 2**22  # cluster numbers drawn at a time

Array = npt.NDArray[np.float64]
ClusteredSample = tuple[Sequence[float], Sequence[str]]  # values, and the cluster each belongs to


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its 95 % interval and count."""

    value: float
    low: float
    high: float
    n: int
    clusters: int | None = None  # number of concepts, if the interval resamples them

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(hits: int, n: int) -> Rate:
    """A rate with Wilson's score interval, which is accurate near 0 and 1. Assumes independent pictures."""
    require(n > 0 and 0 <= hits <= n, f"a rate needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    return Rate(hits / n, *_wilson(hits / n, n, _NORMAL_QUANTILE), n)


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return min(p, max(0.0, middle - reach)), max(p, min(1.0, middle + reach))


def clopper_pearson(hits: int, n: int) -> Rate:
    """A rate with the exact binomial interval, which covers at least 95 % for every share; for attack success rates."""
    require(n > 0 and 0 <= hits <= n, f"a rate needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    from scipy.special import betaincinv  # Imported here because the import takes as long as a small edit.

    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 0.025))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 0.975))
    return Rate(hits / n, low, high, n)


def clustered_mean(values: Sequence[float], clusters: Sequence[str], draws: int = 2000, seed: int = 0) -> Rate:
    """Mean with a bootstrap interval that resamples whole clusters (concepts), widened if they are few.

    Values may be differences in [-1, 1], so paired losses get an interval too. The percentiles of the resampled means
    are stretched about the mean by t / z * sqrt(K / (K - 1)) for K clusters. Without this they are too narrow
    (Hesterberg 2015): in simulation they cover 84 % instead of 95 % at K = 5. The interval stays within the range of
    the values. A single cluster is resampled picture by picture, and its interval holds for that concept only. Equal
    values give an interval without width: use `clustered_share` for shares near 0 or 1.
    """
    # Differs: our own plan also resampled pictures inside the drawn clusters, which counts their spread twice.
    rate = resampled_statistic([(values, clusters)], lambda means: means, draws, seed)
    least, most = float(min(values)), float(max(values))
    return Rate(rate.value, max(least, rate.low), min(most, rate.high), rate.n, rate.clusters)


def resampled_statistic(
    samples: Sequence[ClusteredSample], statistic: Callable[..., Array], draws: int = 2000, seed: int = 0
) -> Rate:
    """A statistic of means, such as a harmonic mean, with a bootstrap interval; samples are resampled independently.

    `statistic` takes one array of means for each sample and must work elementwise. `n` and `clusters` of the result are
    those of the smallest sample.
    """
    rng = np.random.default_rng(seed)
    parts = [_totals(values, clusters) for values, clusters in samples]
    drawn = np.sort(
        np.asarray(statistic(*(_drawn_means(sums, counts, draws, rng) for sums, counts in parts)), dtype=np.float64)
    )
    value = float(statistic(*(np.array([sums.sum() / counts.sum()]) for sums, counts in parts))[0])
    k = min(len(sums) for sums, _ in parts)
    stretch = student_quantile(k - 1) / _NORMAL_QUANTILE * sqrt(k / (k - 1)) if k > 1 else 1.0
    low, high = (float(drawn[round(share * (draws - 1))]) for share in (0.025, 0.975))
    named = min(len({*clusters}) for _, clusters in samples)
    return Rate(
        value,
        min(value, value + stretch * (low - value)),
        max(value, value + stretch * (high - value)),
        min(len(v) for v, _ in samples),
        named,
    )


def _totals(values: Sequence[float], clusters: Sequence[str]) -> tuple[Array, Array]:
    """Sum and count of each cluster, or of each value if there is only one cluster."""
    require(len(values) == len(clusters) and len(values) > 0, f"{len(values)} values for {len(clusters)} cluster names")
    numbers: dict[str, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    array = np.asarray(values, dtype=np.float64)
    if len(numbers) == 1:
        return array, np.ones_like(array)
    return np.bincount(index, array).astype(np.float64), np.bincount(index).astype(np.float64)


def _drawn_means(sums: Array, counts: Array, draws: int, rng: np.random.Generator) -> Array:
    """Means of `draws` resamples of whole clusters. Clusters that are equal are drawn together by their count."""
    kinds, times = np.unique(np.stack([sums, counts], 1), axis=0, return_counts=True)
    if 8 * len(kinds) <= len(sums):
        weights = rng.multinomial(len(sums), times / len(sums), size=draws) @ kinds
        return weights[:, 0] / weights[:, 1]
    means = []
    rows = max(1, _BOOTSTRAP_CHUNK // len(sums))
    for start in range(0, draws, rows):
        chosen = rng.integers(0, len(sums), size=(min(rows, draws - start), len(sums)))
        means.append(sums[chosen].sum(1) / counts[chosen].sum(1))
    return np.concatenate(means)


def clustered_share(hits: Sequence[bool], clusters: Sequence[str]) -> Rate:
    """A share with an interval that respects clusters and is valid near 0 and 1, where a bootstrap has no spread.

    It is Wilson's interval on the effective count n / deff, with Student's t of K - 1 clusters (Korn and Graubard 1998;
    Franco et al. 2019). If all or none are hits, the pictures count as independent, since the spread between clusters
    is unknown.
    """
    sums, counts = _totals([float(hit) for hit in hits], clusters)
    n, k = len(hits), len(sums)
    p = float(sums.sum() / n)
    if k == 1 or p in (0.0, 1.0):
        return Rate(p, *_wilson(p, n, _NORMAL_QUANTILE), n, len({*clusters}))
    variance = k / (k - 1) * float(((sums - p * counts) ** 2).sum()) / n**2
    effective = p * (1 - p) / variance if variance > 0 else inf
    return Rate(
        p,
        *_wilson(p, min(float(n), effective * (_NORMAL_QUANTILE / student_quantile(k - 1)) ** 2), _NORMAL_QUANTILE),
        n,
        len({*clusters}),
    )


def student_quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t."""
    require(freedom > 0, f"Student's t needs at least 1 degree of freedom, got {freedom}")
    from scipy.special import stdtrit  # Imported here because the import takes as long as a small edit.

    return float(stdtrit(freedom, 0.975))
