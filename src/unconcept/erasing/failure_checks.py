"""Detects, without a judge, that an edit had no effect or broke the model."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..core.errors import NumericsError
from ..edits import Edit, origin_of
from ..methods import methods
from ..methods.registry import Promise
from ..prompts.checks import Prompt

COLLAPSE_PREFIX = "collapse: "  # starts the message about an edit that breaks the model
# A weight matrix whose norm grows or shrinks by this factor no longer does its work. The largest factor of all recipes
# on `moji` is 2.5.
MAX_NORM_JUMP = 10.0
_FLAT_DEVIATION = 0.02  # below this standard deviation of pixels in [0, 1] a picture counts as one flat colour
# Mean squared difference of neighbouring pixels over the variance: 2 in noise, far less in any drawn picture.
_NOISE_ROUGHNESS = 1.0


def weight_failures(edit: Edit, strength: float) -> list[str]:
    """List what an edit's own figures show: a broken model, or a promise of its method that it does not keep.

    `NumericsError` if a tensor holds NaN or infinity.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors().values()):
        raise NumericsError("the edit holds NaN or infinite numbers: use a larger lamb, or --dtype float32")
    origin = origin_of(edit)
    jump = origin.report.get("norm_jump", 1.0)
    if not 1 / MAX_NORM_JUMP < jump < MAX_NORM_JUMP:
        return [
            f"{COLLAPSE_PREFIX}the norm of a weight matrix became {jump:.3g} times as large, the allowed range is"
            f" {1 / MAX_NORM_JUMP:g} to {MAX_NORM_JUMP:g}: use a larger lamb or a lower strength"
        ]
    promises = methods[origin.method].promises if strength and origin.method in methods else ()
    broken = [PROMISE_CHECKS[promise](edit, origin.report) for promise in promises]
    return [failure for failure in broken if failure is not None][:1]


def _unchanged(edit: Edit, figures: Mapping[str, float]) -> str | None:
    if figures.get("relative_norm", 1.0) != 0.0:
        return None
    if edit.names:
        return "no effect: the edit changes no weight"
    return "no effect: the modules that the edit adds beside the model do nothing"


def _unmoved(edit: Edit, figures: Mapping[str, float]) -> str | None:
    moved = figures.get("moved", 1.0)
    if moved >= 0.01:
        return None
    return f"no effect: the model still reads a target as before (its states moved by {moved:.3f} of their size)"


def _no_nearer(edit: Edit, figures: Mapping[str, float]) -> str | None:
    residual = figures.get("residual", 0.0)
    if residual <= 0.99:
        return None
    return f"no effect: a target is no nearer to its anchor than before (residual {residual:.3f})"


def _recognised(edit: Edit, figures: Mapping[str, float]) -> str | None:
    left = max(figures.get(f"forget_accuracy{of}", 0.0) for of in ("", " 2"))
    if left <= 0 or "further" in figures:  # With `further`, drawn pictures had the last word.
        return None
    return (
        f"no step size was enough: the vision tower still recognises the target in {left:.0%} of its pictures:"
        " choose another layer, or raise max_search_iterations"
    )


PROMISE_CHECKS: dict[Promise, Callable[[Edit, Mapping[str, float]], str | None]] = {
    "changes": _unchanged,
    "moves-targets": _unmoved,
    "leaves-vision-tower": _recognised,
    "nears-anchors": _no_nearer,
}


def picture_failures(pictures: Mapping[Prompt, tuple[Tensor, Tensor]]) -> list[str]:
    """Detect collapse: pictures that became one flat colour, or noise.

    Pictures with NaN never reach this check: the store refuses them.
    """
    failures = []
    for what, seen in (("blank", is_blank), ("noise", is_noise)):
        before, after = (sum(map(seen, side)) for side in _sides(pictures.values()))
        if after > before + len(pictures) // 4:
            failures.append(
                f"{COLLAPSE_PREFIX}{after} of {len(pictures)} pictures are {what}, {before} before the edit"
            )
    return failures


def is_blank(picture: Tensor) -> bool:
    """Whether a picture (3, h, w) has one flat colour."""
    return float(picture.std()) < _FLAT_DEVIATION


def is_noise(picture: Tensor) -> bool:
    """Whether a picture (3, h, w) is noise: neighbouring pixels hardly correlate."""
    steps = sum(float(picture.diff(dim=dim).square().mean()) for dim in (-2, -1)) / 2
    return not is_blank(picture) and steps > _NOISE_ROUGHNESS * float(picture.var(dim=(-2, -1)).mean())


def _sides(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    kept = list(pairs)
    return [before for before, _ in kept], [after for _, after in kept]
