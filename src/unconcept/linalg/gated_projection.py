"""The part of a vector that lies along given ones, each let in as far as the vector resembles it (AdaVD's
decomposition).

For n vectors t_i and gates g_i in [0, 1] it is sum_i a_i t_i with (G + L) a = (<t_i, v>)_i, G the Gram matrix of the
t_i and L = diag((1/g_i - 1) |t_i|^2). All gates open: the orthogonal projection on their span. One t: g <t, v> / <t, t>
t, the paper's. A closed gate counts as if its t_i were not there; t_i that are almost the same share one coefficient
instead of cancelling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers in the systems that are held at once: with many targets they outgrow the values by far.
_MOST_SYSTEM_NUMBERS = 2**24


@dataclass(frozen=True)
class SimilarityGate:
    """delta = s / (1 + exp(-p (cos - eps))), of which s is the height."""

    s: float
    p: float
    eps: float


def component_along(
    values: Tensor, targets: Tensor, gate: SimilarityGate | None, beside: Tensor | None = None
) -> Tensor:
    """The part (b, l, o) of `values` (b, l, o) along `targets` (n, o); without a gate their projection. Differentiable.

    `beside` (l,): squared length of a vector that is taken to stand beside both value and target at a position,
    in all products and norms; the part returned is the values' own.
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
    # As good as zero, so that targets which are the same, or more than the dimensions, still have a solution.
    eye = torch.eye(len(t), dtype=wide, device=v.device)
    ridge = 4 * len(t) * torch.finfo(wide).eps * eye
    if gate is None:
        share = torch.linalg.solve(gram + ridge, length[..., None])[..., 0]
        projected: Tensor = ((share / size) @ t).to(values.dtype)
        return projected
    norm = (v.square().sum(2, keepdim=True) + m).clamp_min(tiny).sqrt()
    opening = gate.p * (length / norm - gate.eps)
    # Through the logarithm: the root of a gate that is closed to the last bit has no gradient.
    root = (F.logsigmoid(opening) / 2).exp()
    system = root[..., None] * gram * root[..., None, :] + eye * torch.sigmoid(-opening)[..., None] + ridge
    share = root * torch.linalg.solve(system, (root * length)[..., None])[..., 0]
    scaled: Tensor = (gate.s * (share / size) @ t).to(values.dtype)
    return scaled
