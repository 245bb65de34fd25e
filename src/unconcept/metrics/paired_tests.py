"""Tests for two models on the same prompts and noise, and the smallest change that a test of n pictures can find."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import DataError, require
from .intervals import Array, Rate, clustered_mean

SIGNIFICANCE = 0.05  # p from which a change counts as found
DETECTION_POWER = 0.8  # probability with which a detectable change is found
_EXACT_UNITS = 20  # up to this many units all sign patterns are tried
_TIE_TOLERANCE = 1e-9  # relative; sums closer than this count as equal


@dataclass(frozen=True)
class McNemar:
    """Counts of changed pictures, and the two-sided p of their split.

    p is the probability of a split at least as uneven if gains and losses are equally likely.
    """

    gained: int  # no before, yes after
    lost: int  # yes before, no after
    n: int
    p: float


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> McNemar:
    """McNemar's exact test. Assumes independent pictures."""
    from scipy.special import bdtr  # Imported here because the import takes as long as a small edit.

    _same_length(before, after)
    gained = sum(not b and bool(a) for b, a in zip(before, after, strict=True))
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    return McNemar(gained, lost, len(before), min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))))


def sign_flip(
    differences: Sequence[float], clusters: Sequence[str] | None = None, draws: int = 10_000, seed: int = 0
) -> float:
    """Sign-flip test: the two-sided p of the sum of paired differences if the sign of each unit is random.

    Units are the sums of clusters, or single differences. For up to 20 non-zero units, all sign patterns are counted.
    For more, `draws` random patterns are; the observed pattern counts among them, so p is never 0.
    """
    names = [str(i) for i in range(len(differences))] if clusters is None else clusters
    _same_length(differences, names)
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(name, len(numbers)) for name in names]
    sums = np.bincount(index, np.asarray(differences, dtype=np.float64))
    require(bool(np.isfinite(sums).all()), "a difference is NaN or infinite: check the scores", DataError)
    units = sums[sums != 0]
    observed = abs(float(units.sum())) - _TIE_TOLERANCE * float(abs(units).sum())
    if len(units) <= _EXACT_UNITS:
        return float((abs(_all_sums(units)) >= observed).mean())
    reached = sum(int((abs(sums) >= observed).sum()) for sums in _drawn_sums(abs(units), draws, seed))
    return (1 + reached) / (1 + draws)


def _all_sums(units: Array) -> Array:
    sums = np.zeros(1)
    for unit in units:
        sums = np.concatenate([sums + unit, sums - unit])
    return sums


def _drawn_sums(units: Array, draws: int, seed: int) -> Iterator[Array]:
    """Sums under random signs, some draws at a time. Equal units share one binomial draw."""
    rng = np.random.default_rng(seed)
    sizes, times = np.unique(units, return_counts=True)
    rows = max(1, 2**22 // len(sizes))
    for start in range(0, draws, rows):
        shape = (min(rows, draws - start), len(sizes))
        ups = (
            rng.integers(0, 2, size=shape, dtype=np.int8) if times.max() == 1 else rng.binomial(times, 0.5, size=shape)
        )
        yield (2.0 * ups - times) @ sizes


def paired_change(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], draws: int = 2000, seed: int = 0
) -> Rate:
    """Mean of after - before with a bootstrap interval over whole clusters; for shares it is in [-1, 1]."""
    _same_length(before, after)
    return clustered_mean([float(a) - float(b) for b, a in zip(before, after, strict=True)], clusters, draws, seed)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values of several tests: if only those below 0.05 count, P(any false positive) < 0.05."""
    require(
        all(0 <= value <= 1 for value in p.values()),
        f"p values {list(p.values())[:4]}: they must be in [0, 1]",
        DataError,
    )
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def least_p(units: int) -> float:
    """The smallest p of a paired test on `units` pictures or clusters, if all change one way: 2^(1 - units)."""
    require(units > 0, f"{units} units: a paired test needs at least 1", DataError)
    return float(2.0 ** (1 - units))


def detectable_change(units: int, tests: int = 1, power: float = DETECTION_POWER) -> float | None:
    """The smallest true share of units that must change, all one way, for a paired test to find it with this power.

    None if no share suffices: then the test cannot reach p <= 0.05 after a correction for `tests` tests. The test of k
    changes that all go one way has p = 2^(1 - k) (McNemar 1947; sign flips of whole clusters alike), so it needs k >= 1
    + log2(tests / 0.05). The number of changes is binomial (Duffy 1984, Biometrics 40:1005), and P(at least k of n) =
    I_share(k, n - k + 1) (DLMF 8.17.5) is inverted exactly. Changes in both directions need more.
    """
    require(
        tests > 0 and 0 < power < 1,
        f"tests {tests}, power {power}: give at least 1 test, and a power between 0 and 1",
    )
    if least_p(units) * tests > SIGNIFICANCE:
        return None
    from scipy.special import betaincinv  # Imported here because the import takes as long as a small edit.

    least = next(k for k in range(1, units + 1) if least_p(k) * tests <= SIGNIFICANCE)
    return float(betaincinv(least, units - least + 1, power))


def _same_length(one: Sequence[object], other: Sequence[object]) -> None:
    require(
        len(one) == len(other) and len(one) > 0,
        f"{len(one)} and {len(other)} values: give pairs, at least one",
        DataError,
    )
