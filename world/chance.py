"""Whether pictures of one caption vary as its scenes do: distances of seeds, sizes, places and angles, and copies."""

from dataclasses import dataclass

import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torch.nn import functional as F

COPY_SIDE = 16  # pictures are compared at this size for copies


def pixel_distance(pictures: Tensor) -> float:
    """Mean pairwise root mean square of pictures (n, 3, h, w) in [0, 1]."""
    flat = pictures.flatten(1)
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def feature_distance(features: Tensor) -> float:
    """Mean pairwise distance of (n, d) features of unit length."""
    return float(torch.pdist(F.normalize(features, dim=1)).mean())


@dataclass(frozen=True)
class Figure:
    """What stands out from the background of pictures (n,): covered share, centre, and angle in degrees (-90 to 90)."""

    area: Tensor
    x: Tensor
    y: Tensor
    angle: Tensor


def figures(pictures: Tensor, contrast: float = 0.12) -> Figure:
    """Measure pictures (n, 3, h, w); the background is the median colour of the rim."""
    rim = torch.cat([pictures[..., 0, :], pictures[..., -1, :], pictures[..., :, 0], pictures[..., :, -1]], -1)
    background = rim.median(-1).values[..., None, None]
    mask = ((pictures - background).abs().amax(1) > contrast).float()
    side = mask.shape[-1]
    places = (torch.arange(side) + 0.5) / side
    mass = mask.sum((1, 2)).clamp_min(1)
    x, y = (mask.sum(1) * places).sum(1) / mass, (mask.sum(2) * places).sum(1) / mass
    across, down = places[None] - x[:, None], places[None] - y[:, None]
    xx = (mask.sum(1) * across.square()).sum(1)
    yy = (mask.sum(2) * down.square()).sum(1)
    xy = (mask * down[:, :, None] * across[:, None, :]).sum((1, 2))
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, xx - yy))
    return Figure(mass / side**2, x, y, angle)


def two_sample(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two samples, and its p-value."""
    result = ks_2samp(one.numpy(), other.numpy())
    return float(result.statistic), float(result.pvalue)


def new_share(drawn: Tensor, shown: Tensor) -> float:
    """Share of drawn pictures whose nearest training scene lies further than that scene's own nearest neighbour."""
    a, b = (F.adaptive_avg_pool2d(x, COPY_SIDE).flatten(1) for x in (drawn, shown))
    nearest = torch.cat([torch.cdist(part, b).min(1, keepdim=True).values for part in a.split(256)])[:, 0]
    which = torch.cat([torch.cdist(part, b).argmin(1) for part in a.split(256)])
    own = torch.cdist(b[which], b)
    own[torch.arange(len(which)), which] = float("inf")
    return float((nearest > own.min(1).values).float().mean())
