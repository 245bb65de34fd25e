"""An erased model beside models that never saw the concept: distances, a test and a saving, as pure functions.

A saw the concept, U is A after erasing, W1 and W2 never saw it, B saw it and shares W2's seed. W2 and B are strangers
to A, W1 and U alike: what these inherited from their common seed does not decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..core.errors import DataError, require
from .intervals import Array
from .paired_tests import SIGNIFICANCE, sign_flip

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernel, times the median distance


def two_way_gap(own: Array, other_on_own: Array, other: Array, own_on_other: Array) -> float:
    """Return g(p -> q) + g(q -> p), where g(p -> q) is the mean of |eps - q|^2 - |eps - p|^2 on p's own pictures.

    `own` and `other_on_own` are errors of p and q on p's pictures, under the same noise; `other` and `own_on_other`
    those of q and p on q's. An estimate of the two-way likelihood gap (arXiv:2510.12981); it may be negative.
    """
    for pair in ((own, other_on_own), (other, own_on_other)):
        require(
            pair[0].shape == pair[1].shape and pair[0].size > 0,
            f"errors of shapes {pair[0].shape} and {pair[1].shape}: give those of both models on the same pictures",
            DataError,
        )
    return float((other_on_own - own).mean() + (own_on_other - other).mean())


def relative_position(edited: float, floor: float, ceiling: float) -> float:
    """Return r = (d(U, W2) - d(W1, W2)) / (d(A, W2) - d(W1, W2)): 0 never saw, 1 untouched, above 1 further off.

    Raises `DataError` unless the untouched model is further from the stranger than one that never saw it.
    """
    message = f"d(A, W2) = {ceiling:.4g} is not above d(W1, W2) = {floor:.4g}: nothing tells the two apart here"
    require(isfinite(edited) and ceiling > floor, message, DataError)
    return (edited - floor) / (ceiling - floor)


@dataclass(frozen=True)
class StrangersTest:
    """One-sided test of d(U, W2) <= d(U, B); p small says that U is nearer to the stranger that saw the concept."""

    difference: float
    """Mean over prompts of d(U, W2) - d(U, B), squared kernel distances."""
    p: float
    prompts: int

    @property
    def rejects(self) -> bool:
        return self.p <= SIGNIFICANCE


def strangers_test(differences: Sequence[float], draws: int = 10_000, seed: int = 0) -> StrangersTest:
    """Test one difference a prompt by random signs of whole prompts: under no difference each sign is as likely."""
    total, two_sided = float(np.sum(differences)), sign_flip(differences, draws=draws, seed=seed)
    p = two_sided / 2 if total > 0 else 1 - two_sided / 2
    return StrangersTest(total / len(differences), p, len(differences))


def kernel_differences(edited: Array, never: Array, ever: Array) -> Array:
    """Return MMD^2(U, W2) - MMD^2(U, B) of each prompt (n,), out of features (n, pictures, width) of its pictures.

    Unbiased (Bounliphone et al. 2016, arXiv:1511.04581: the term within U cancels); the kernel is the mean of five
    Gaussians about the median distance of all pictures of a prompt, so that all have the same scale.
    """
    shapes = (edited.shape, never.shape, ever.shape)
    message = f"features of shapes {shapes}: give the same prompts with at least 2 pictures each"
    require(len({shape[::2] for shape in shapes}) == 1 and min(s[1] for s in shapes) > 1, message, DataError)
    scale = float(
        np.median([np.median(_squares(some, some)) for some in np.concatenate([edited, never, ever], axis=1)])
    )
    require(scale > 0, "all features are equal: nothing can be told apart", DataError)
    rows = zip(edited, never, ever, strict=True)
    return np.array([_pull(u, w, scale) - _pull(u, b, scale) for u, w, b in rows])


def _pull(edited: Array, pole: Array, scale: float) -> float:
    """MMD^2 of U and a pole without the term within U."""
    within = _kernel(pole, pole, scale)
    count = len(pole)
    inner = (within.sum() - np.trace(within)) / (count * (count - 1))
    return float(inner - 2 * _kernel(edited, pole, scale).mean())


def _kernel(one: Array, other: Array, scale: float) -> Array:
    squares = _squares(one, other)
    found: Array = np.mean([np.exp(-squares / (2 * width * scale)) for width in _BANDWIDTHS], axis=0)
    return found


def _squares(one: Array, other: Array) -> Array:
    found: Array = np.square(one[:, None] - other[None]).sum(-1)
    return found


@dataclass(frozen=True)
class Saving:
    """How many steps of learning a concept an edit saves: 0 learns as if new, near 1 had only hidden it."""

    value: float | None
    """1 - S(U) / mean S(W); None if neither learned it within the limit."""
    bound: str = ""
    """ "at most" or "at least" where a model did not learn it within the limit; "" for a value."""


def relearning_saving(edited: Sequence[int | None], never: Sequence[int | None], limit: int) -> Saving:
    """Compare steps until the concept is drawn; None has not learned it in `limit` steps, and counts as at least that.

    Censored steps of the edited model make the saving an upper bound, those of the others a lower one.
    """
    require(bool(edited) and bool(never) and limit > 0, "give steps of both, and a limit above 0", DataError)
    open_edited, open_never = None in edited, None in never
    if open_edited and open_never:
        return Saving(None)
    own, others = _mean_steps(edited, limit), _mean_steps(never, limit)
    require(others > 0, "models that never saw it draw it after 0 steps: the concept is void", DataError)
    return Saving(1 - own / others, "at most" if open_edited else "at least" if open_never else "")


def _mean_steps(steps: Sequence[int | None], limit: int) -> float:
    return float(np.mean([limit if count is None else count for count in steps]))
