"""Random neighbours of embeddings with given cosines and within a distance (RealEra, arXiv:2410.09140).

The paper states only the two constraints; the way of sampling is (inferred). The cosine is drawn first, then a
direction at exactly that cosine, then a length that keeps the distance. So no draw is rejected, whereas isotropic noise
in hundreds of dimensions hardly varies in its cosine.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.errors import require

CosineInterval = tuple[float, float]


def sample_neighbours(
    rows: Tensor, count: int, cosines: CosineInterval, distance: float, generator: torch.Generator
) -> Tensor:
    """Draw `count` neighbours of each row (n, d) as (n, count, d) float64.

    Their cosines with the row are uniform in the interval, and their distance from it is at most `distance` times its
    length. Cosines that this distance excludes are not drawn. `generator` is on the CPU, so that every device draws
    the same neighbours.
    """
    _check(cosines)
    low, high = max(cosines[0], max(0.0, 1 - distance**2) ** 0.5), cosines[1]
    message = (
        f"distance {distance} allows no cosine of {high} or less: the distance must be >= {(1 - high**2) ** 0.5:.3f}"
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
    """Draw `count` vectors around each row (n, d) that are outside its neighbourhood, as (n, count, d) float64.

    They are as long as the row, more than `distance` times its length away from it, and their cosines are uniform in
    the interval. That they keep the length is (inferred): text states of one encoder are about equally long.
    """
    _check(cosines)
    most = 1 - distance**2 / 2
    require(
        cosines[1] < most,
        f"cosine {cosines[1]} is too near for distance {distance}: the largest cosine must be < {most:.3f}",
    )
    size, unit, _ = _directions(rows, count, cosines, generator)
    return size * unit


def draw_by_encoder(rows: Tensor, widths: Sequence[int], draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw (n, count, d) for rows (n, d) whose columns are several encoders', of these widths, each by itself.

    Columns of zeros, such as the padding between SD3's encoders, stay zero.
    """
    found = []
    for part in rows.split(list(widths), -1):
        live = (part != 0).any(0)
        own = draw(part[:, live] if live.any() else torch.ones_like(part))
        whole = own.new_zeros(*own.shape[:2], part.shape[1])
        if live.any():
            whole[..., live] = own
        found.append(whole)
    return torch.cat(found, -1)


def in_neighbourhood(rows: Tensor, centres: Tensor, least_cosine: float, distance: float) -> Tensor:
    """Whether each row (n, d) is in the neighbourhood of any centre (k, d): booleans (n,)."""
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
