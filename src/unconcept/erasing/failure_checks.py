"""Detects, without a judge, that an edit had no effect or broke the model."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..core.errors import NumericsError
from ..edits import Edit, origin_of
from ..prompts.checks import Prompt

COLLAPSE_PREFIX = "collapse: "  # starts the message about an edit that breaks the model
# A weight matrix whose norm grows or shrinks by this factor no longer does its work. The largest factor of all recipes
# on `moji` is 2.5.
MAX_NORM_JUMP = 10.0
_FLAT_DEVIATION = 0.02  # below this standard deviation of pixels in [0, 1] a picture counts as one flat colour
# Mean squared difference of neighbouring pixels over the variance: 2 in noise, far less in any drawn picture.
_NOISE_ROUGHNESS = 1.0


def weight_failures(edit: Edit, strength: float) -> list[str]:
    """List the failures that an edit's own figures show; `NumericsError` if a tensor holds NaN or infinity."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors().values()):
        raise NumericsError("the edit holds NaN or infinite numbers: use a larger lamb, or --dtype float32")
    figures = origin_of(edit).report
    jump = figures.get("norm_jump", 1.0)
    if not 1 / MAX_NORM_JUMP < jump < MAX_NORM_JUMP:
        return [
            f"{COLLAPSE_PREFIX}the norm of a weight matrix became {jump:.3g} times as large, the allowed range is"
            f" {1 / MAX_NORM_JUMP:g} to {MAX_NORM_JUMP:g}: use a larger lamb or a lower strength"
        ]
    # `largest_gap` is a figure of debiasing, which changes nothing where the model was balanced already.
    if strength and figures.get("relative_norm", 1.0) == 0.0 and "largest_gap" not in figures:
        return [
            (
                "no effect: the edit changes no weight"
                if edit.names
                else "no effect: the modules that the edit adds beside the model do nothing"
            )
        ]
    if strength and figures.get("moved", 1.0) < 0.01:
        return [
            f"no effect: the model still reads a target as before (its states moved by {figures['moved']:.3f} of their"
            " size)"
        ]
    if (
        strength
        and "further" not in figures
        and (left := max(figures.get(f"forget_accuracy{of}", 0.0) for of in ("", " 2"))) > 0
    ):
        return [
            f"no step size was enough: the vision tower still recognises the target in {left:.0%} of its pictures:"
            " choose another layer, or raise max_search_iterations"
        ]
    if strength and figures.get("residual", 0.0) > 0.99:
        return [f"no effect: a target is no nearer to its anchor than before (residual {figures['residual']:.3f})"]
    return []


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
