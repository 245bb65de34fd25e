"""Gradient surgery: DoCo's, which follows one of two terms, and RGD's, which follows both without their conflict.

Wu et al., AAAI 2025, arXiv:2405.15304; Ko et al., NeurIPS 2024, arXiv:2412.07808.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..gradient_transforms import GradientClip, GradientJoin, GradientList, project_conflict


def unit_conflict(a: Tensor, b: Tensor, strength: float = 1.0) -> Tensor:
    """Return a - strength <a', b'> b' if <a', b'> < 0, with a' and b' of unit length: the authors' code.

    It is orthogonal to b only if `a` has length 1.
    """
    longest = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    inner = torch.sum(a * b)
    return a - strength * inner / longest * b / torch.linalg.vector_norm(b) if inner < 0 else a


def clipped_surgery(
    leading: str, guarding: str, strength: float, norm: float, has_unit_product: bool = False
) -> GradientJoin:
    """Build the surgery of two terms by tensor, each of whose whole gradients is scaled down to at most `norm` first.

    The guarding term's own gradient is not followed. `has_unit_product` is the authors' form.
    """
    clip, project = GradientClip(norm), unit_conflict if has_unit_product else project_conflict

    def join(terms: Mapping[str, GradientList]) -> GradientList:
        first, second = (clip.gradient(0, terms[name], []) for name in (leading, guarding))
        return [project(a, b, strength) for a, b in zip(first, second, strict=True)]

    return join


def two_way_surgery(one: str, two: str, alpha: float = 1.0) -> GradientJoin:
    """Build a gradient surgery over all tensors at once (RGD): remove the conflicts of both, then one + alpha two.

    With a and b flat, it is (a - <a, b> / <b, b> b) + alpha (b - <a, b> / <a, a> a) if <a, b> < 0.
    """

    def join(terms: Mapping[str, GradientList]) -> GradientList:
        first, second = terms[one], terms[two]
        inner = _inner(first, second)
        if inner >= 0:
            return _sum(first, second, 1.0, alpha)
        own, other = 1 - alpha * inner / _inner(first, first), alpha - inner / _inner(second, second)
        return _sum(first, second, own.item(), other.item())

    return join


def summed_terms(one: str, two: str, alpha: float = 1.0) -> GradientJoin:
    """Build the join without surgery (GradDiff): one + alpha two."""
    return lambda terms: _sum(terms[one], terms[two], 1.0, alpha)


def _sum(first: Sequence[Tensor], second: Sequence[Tensor], own: float, other: float) -> GradientList:
    """Return own * first + other * second with one new tensor each."""
    return [torch.mul(a, own).add_(b, alpha=other) for a, b in zip(first, second, strict=True)]


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The inner product of all tensors, as if they were one vector."""
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(first, second, strict=True)]).sum()
