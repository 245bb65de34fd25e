"""Losses of A-STAR (Agarwal et al., ICCV 2023, arXiv:2306.14544) on attention maps (.., m, p): m concepts, p places."""

import torch
from torch import Tensor


def segregation_loss(maps: Tensor) -> Tensor:
    """The overlap of every two concepts, (..): 0 for disjoint maps, 1/2 for each pair of equal ones."""
    first, second = torch.triu_indices(maps.shape[-2], maps.shape[-2], 1, device=maps.device)
    return _overlap(maps[..., first, :], maps[..., second, :]).sum(-1)


def retention_loss(maps: Tensor, places: Tensor) -> Tensor:
    """What each concept has left of its places (.., m, p) in the step before, (..): 1/2 to 1 for each concept."""
    return (1 - _overlap(maps, places)).sum(-1)


def strongest_places(maps: Tensor, share: float) -> Tensor:
    """1 at the share of places to which a concept attends most, 0 elsewhere, (.., m, p); without gradient."""
    count = max(1, round(share * maps.shape[-1]))
    found = torch.zeros_like(maps, requires_grad=False)
    return found.scatter(-1, maps.detach().topk(count, -1).indices, 1.0)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """sum of min / sum of both, (.., m): 0 to 1/2. The paper's ratio, which is not intersection over union."""
    return torch.minimum(a, b).sum(-1) / (a + b).sum(-1).clamp(min=torch.finfo(a.dtype).tiny)
