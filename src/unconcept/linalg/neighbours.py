"""Random neighbours of embeddings at a wanted cosine and within a distance (RealEra, arXiv:2410.09140).

The paper names the two constraints alone; that they are sampled as follows is (inferred). The cosine is drawn first,
then a direction at exactly that cosine, then a length that keeps the distance: no draw is wasted, where isotropic noise
in hundreds of dimensions meets hardly more than one cosine.
"""

import torch
from torch import Tensor

from ..core.errors import require

CosineInterval = tuple[float, float]


def sample_neighbours(
    rows: Tensor, count: int, cosines: CosineInterval, distance: float, generator: torch.Generator
) -> Tensor:
    """(n, count, d) float64: cosines with rows (n, d) uniform in the interval, at most `distance` times a row's length
    away.

    Cosines that the distance does not allow are not drawn. `generator` is on the CPU, so that every device draws the
    same.
    """
    _check(cosines)
    low, high = max(cosines[0], max(0.0, 1 - distance**2) ** 0.5), cosines[1]
    message = (
        f"no row with a cosine of at most {high} is within {distance} of the length: the distance must be >="
        f" {(1 - high**2) ** 0.5:.3f}"
    )
    require(distance >= 0 and low <= high, message)
    size, unit, rho = _directions(rows, count, (low, high), generator)
    half = (distance**2 - 1 + rho.square()).clamp_min(0).sqrt()  # of the lengths, over |e|, that keep the distance
    shortest, longest = (rho - half).clamp_min(0), rho + half
    share = torch.rand(rho.shape, dtype=torch.float64, generator=generator).to(rho.device)
    return size * (shortest + share * (longest - shortest)) * unit


def sample_beyond(
    rows: Tensor, count: int, cosines: CosineInterval, distance: float, generator: torch.Generator
) -> Tensor:
    """(n, count, d) float64 of the rows' own lengths, further than `distance` lengths away, cosines uniform in the
    interval.

    That they keep the length is (inferred): text states of one encoder are about equally long.
    """
    _check(cosines)
    most = 1 - distance**2 / 2
    require(
        cosines[1] < most,
        f"a row of cosine {cosines[1]} is within {distance} of the length: the cosine must be < {most:.3f}",
    )
    size, unit, _ = _directions(rows, count, cosines, generator)
    return size * unit


def in_neighbourhood(rows: Tensor, centres: Tensor, least_cosine: float, distance: float) -> Tensor:
    """Which rows (n, d) lie in the neighbourhood of any centre (k, d): booleans (n,)."""
    rows, centres = rows.double(), centres.double()
    lengths = centres.norm(dim=1)
    cosine = (rows @ centres.T) / (rows.norm(dim=1)[:, None] * lengths).clamp_min(1e-300)
    near: Tensor = ((cosine >= least_cosine) & (torch.cdist(rows, centres) <= distance * lengths)).any(1)
    return near


def _directions(
    rows: Tensor, count: int, cosines: CosineInterval, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths (n, 1, 1), unit vectors (n, count, d) at drawn cosines with the rows, and the cosines (n, count, 1)."""
    wide = rows.double()
    size = wide.norm(dim=1)[:, None, None]
    own = wide[:, None] / size
    rho = cosines[0] + (cosines[1] - cosines[0]) * torch.rand(
        len(rows), count, 1, dtype=torch.float64, generator=generator
    ).to(wide.device)
    noise = torch.randn(len(rows), count, rows.shape[1], dtype=torch.float64, generator=generator).to(wide.device)
    aside = noise - (noise * own).sum(-1, keepdim=True) * own
    return size, rho * own + (1 - rho.square()).sqrt() * aside / aside.norm(dim=-1, keepdim=True), rho


def _check(cosines: CosineInterval) -> None:
    require(0 < cosines[0] <= cosines[1] <= 1, f"cosines {cosines}: give two numbers with 0 < first <= second <= 1")
