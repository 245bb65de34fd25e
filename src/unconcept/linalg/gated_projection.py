"""Gated projection of a vector onto given vectors (AdaVD's decomposition).

A gate scales the part along each given vector by how similar the vector is to it. For n vectors t_i and gates g_i in
[0, 1] the projection is sum_i a_i t_i with (G + L) a = (<t_i, v>)_i, G the Gram matrix of the t_i and
L = diag((1/g_i - 1) |t_i|^2). With all gates open it is the orthogonal projection on their span. With one t it is
g <t, v> / <t, t> t, as in the paper. A closed gate removes its t_i; t_i that are almost the same share one coefficient
instead of cancelling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers of all systems in memory at once: with many targets they are far larger than the values.
_MOST_SYSTEM_NUMBERS = 2**24


@dataclass(frozen=True)
class SimilarityGate:
    """The gate delta = s / (1 + exp(-p (cos - eps))); s is its height."""

    s: float
    p: float
    eps: float


def component_along(
    values: Tensor, targets: Tensor, gate: SimilarityGate | None, beside: Tensor | None = None
) -> Tensor:
    """The part (b, l, o) of `values` (b, l, o) along `targets` (n, o); without a gate the projection. Differentiable.

    `beside` (l,) is, for each position, the squared length of one more vector that value and target have in common.
    It counts in all products and norms, but the returned part contains only the values' own coordinates.
    """
    each = max(1, _MOST_SYSTEM_NUMBERS // (values.shape[1] * len(targets) ** 2))
    if gate is not None and len(values) > each:
        return torch.cat([component_along(part, targets, gate, beside) for part in values.split(each)])
    wide = torch.promote_types(values.dtype, torch.float32)
    v, t = values.to(wide), targets.to(values.device, wide)
    m = (v.new_zeros(1) if beside is None else beside.to(v))[:, None]
    tiny = torch.finfo(wide).tiny ** 0.5
    size = (t.square().sum(1) + m).clamp_min(tiny).sqrt()  # (l, n)
    length = (v @ t.T + m) / size  # (b, l, n): of v along each target
    gram = (t @ t.T + m[..., None]) / (size[:, :, None] * size[:, None, :])  # (l, n, n)
    # Almost zero: gives a solution even if targets are equal or outnumber the dimensions.
    eye = torch.eye(len(t), dtype=wide, device=v.device)
    ridge = 4 * len(t) * torch.finfo(wide).eps * eye
    if gate is None:
        share = torch.linalg.solve(gram + ridge, length[..., None])[..., 0]
        projected: Tensor = ((share / size) @ t).to(values.dtype)
        return projected
    norm = (v.square().sum(2, keepdim=True) + m).clamp_min(tiny).sqrt()
    opening = gate.p * (length / norm - gate.eps)
    # Through the logarithm: the square root of a gate that is exactly 0 has no gradient.
    root = (F.logsigmoid(opening) / 2).exp()
    system = root[..., None] * gram * root[..., None, :] + eye * torch.sigmoid(-opening)[..., None] + ridge
    share = root * torch.linalg.solve(system, (root * length)[..., None])[..., 0]
    scaled: Tensor = (gate.s * (share / size) @ t).to(values.dtype)
    return scaled
