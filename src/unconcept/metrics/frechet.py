"""Distances between two sets of pictures, computed from the features of a named extractor.

The formulas are those of FID (Heusel et al. 2017), KID (Binkowski et al. 2018) and CMMD (Jayasumana et al. 2024). Those
names are reserved for the papers' own networks; here a figure is named after its formula and its extractor
(`metric_name`). All are float64 inside.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NumericsError, require

SetDistance = Literal["frechet", "cubic-mmd", "gaussian-mmd"]  # FID's, KID's, CMMD's
_KERNEL_WIDTH = 10.0  # CMMD's bandwidth
_CMMD_SCALE = 1000.0  # factor of CMMD
_ROW_BLOCK = 2048  # rows of a kernel matrix held at a time


def metric_name(form: SetDistance, extractor: str) -> str:
    """The name of a figure in reports, such as `frechet@moji-judge`."""
    return f"{form}@{extractor}"


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set, which is all that the Frechet distance needs of its features."""

    mean: Tensor  # (d,) float64
    covariance: Tensor  # (d, d) float64, divided by n - 1
    n: int

    @classmethod
    def of(cls, features: Tensor) -> "Gaussian":
        """Compute them from features (n, d), n >= 2."""
        values = _checked(features, 2, "a covariance")
        return cls(values.mean(0), torch.atleast_2d(values.T.cov()), len(values))


@dataclass(frozen=True)
class DrawnMean:
    """A mean over random draws, with their standard deviation."""

    mean: float
    sd: float
    draws: int
    n: int  # rows of each set in a draw


def frechet(a: Gaussian, b: Gaussian, singular: bool = False) -> float:
    """|m_a - m_b|^2 + Tr(A + B - 2 (A B)^(1/2)): FID's formula, 0 for equal sets.

    It is biased: it falls with growing n, so compare only at equal n, and print n. With n <= d a covariance lacks full
    rank and most of the value is this bias; `singular` allows it, to match figures published on 1000 captions.
    """
    d = len(a.mean)
    _same_width(d, len(b.mean))
    for n in (a.n, b.n):
        message = (
            f"{n} pictures in {d} dimensions have a singular covariance: give more than {d}, or use a kernel distance"
            " (cubic_mmd, gaussian_mmd)"
        )
        require(singular or n > d, message)
    if torch.equal(a.mean, b.mean) and torch.equal(a.covariance, b.covariance):
        return 0.0  # Exactly: the roots of near-zero eigenvalues would leave about 1e-8.
    # Tr (A B)^(1/2) is the sum of singular values of A^(1/2) B^(1/2). This avoids the product A B, whose root would
    # lose half of the digits.
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    value = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(value))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that are negative by rounding count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def cubic_mmd(
    a: Tensor, b: Tensor, size: int = 1000, draws: int = 100, seed: int = 0, paired: bool = False
) -> DrawnMean:
    """Unbiased MMD^2 with the kernel (x.y / d + 1)^3 over random subsets without repetition: KID's formula.

    Features (n, d) and (m, d), n and m >= `size`. Unbiased: 0 on average for two sets of one source, so often below 0.
    With `paired`, row i of both sets comes from the same prompt and noise. KID's formula assumes independent sets and
    would then fall below 0 (far below for equal sets), so a U-statistic over pairs is used, which is exactly 0 for
    equal sets.
    """
    require(
        size >= 2 and draws >= 1, f"subsets of {size}, {draws} draws: give subsets of 2 or more, and 1 draw or more"
    )
    a, b = (_checked(side, size, f"subsets of {size}") for side in (a, b))
    _same_width(a.shape[1], b.shape[1])
    require(
        not paired or len(a) == len(b), f"{len(a)} and {len(b)} pictures cannot be paired: give equally many of both"
    )
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        first = torch.randperm(len(a), generator=rng)[:size].to(a.device)
        second = first if paired else torch.randperm(len(b), generator=rng)[:size].to(b.device)
        values.append(_unbiased(a[first], b[second], paired))
    return _spread(values, size)


def _unbiased(a: Tensor, b: Tensor, paired: bool) -> float:
    """U-statistic of MMD^2: no picture is compared with itself nor, in paired sets, with its counterpart."""
    n, pairs = len(a), len(a) * (len(a) - 1)
    within = (_cubic_between(a, a) + _cubic_between(b, b)) / pairs
    across = _cubic_between(a, b) / pairs if paired else _cubic(a @ b.T, a).sum() / n**2
    return float(within - 2 * across)


def _cubic_between(a: Tensor, b: Tensor) -> Tensor:
    """The kernel's sum over all i != j."""
    return _cubic(a @ b.T, a).sum() - _cubic((a * b).sum(1), a).sum()


def _cubic(products: Tensor, a: Tensor) -> Tensor:
    return (products / a.shape[1] + 1) ** 3


def gaussian_mmd(a: Tensor, b: Tensor) -> float:
    """CMMD's formula: 1000 * MMD^2 with the kernel exp(-|x - y|^2 / (2 * 10^2)), self-pairs included.

    Features (n, d) and (m, d), n and m >= 2, are normalised to unit length first. Exactly 0 for equal sets.
    """
    a, b = (F.normalize(_checked(side, 2, "a kernel distance"), dim=1) for side in (a, b))
    _same_width(a.shape[1], b.shape[1])
    return _CMMD_SCALE * (_gaussian_mean(a, a) + _gaussian_mean(b, b) - 2 * _gaussian_mean(a, b))


def _gaussian_mean(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for rows in a.split(_ROW_BLOCK):
        squared = rows.square().sum(1)[:, None] + b.square().sum(1) - 2 * rows @ b.T
        total += float((squared.clamp(min=0) / (-2 * _KERNEL_WIDTH**2)).exp().sum())
    return total / (len(a) * len(b))


def _spread(values: list[float], n: int) -> DrawnMean:
    found = torch.tensor(values, dtype=torch.float64)
    return DrawnMean(float(found.mean()), float(found.std(correction=0)), len(values), n)


def _checked(features: Tensor, least: int, what: str) -> Tensor:
    """Return features (n, d) in float64; raise an error if they are too few, of another shape, or not finite."""
    require(features.ndim == 2, f"features of shape {tuple(features.shape)}: give (n, d), one row a picture")
    require(len(features) >= least, f"{len(features)} pictures are too few for {what}: give {least} or more")
    require(
        bool(torch.isfinite(features).all()),
        "features contain NaN or infinity: check the extractor and the pictures",
        NumericsError,
    )
    return features.double()


def _same_width(a: int, b: int) -> None:
    require(a == b, f"features of {a} and of {b} numbers cannot be compared: compute both sets with one extractor")
