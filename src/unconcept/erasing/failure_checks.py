"""What tells, without a judge, that an edit did nothing, or broke the model."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..core.errors import NumericsError
from ..edits import Edit, origin_of
from ..prompts.checks import Prompt

COLLAPSE_PREFIX = "collapse: "  # begins what is said of an edit that breaks the model
# a matrix this many times its size, or this small a part, computes something else: of all recipes on `moji`, 2.5 is the
# most.
MAX_NORM_JUMP = 10.0
_FLAT_DEVIATION = 0.02  # standard deviation of a picture of one colour, of pixels in 0 .. 1
# Mean square between neighbouring pixels, of the variance: 2 in noise, far less in anything drawn.
_NOISE_ROUGHNESS = 1.0


def weight_failures(edit: Edit, strength: float) -> list[str]:
    """What an edit's own figures say is wrong with it; `NumericsError` if it holds something that is no number."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors().values()):
        raise NumericsError("the edit holds non-finite numbers: use a larger lamb, or --dtype float32")
    figures = origin_of(edit).report
    jump = figures.get("norm_jump", 1.0)
    if not 1 / MAX_NORM_JUMP < jump < MAX_NORM_JUMP:
        return [
            f"{COLLAPSE_PREFIX}a weight matrix has {jump:.3g} times its norm, allowed are {1 / MAX_NORM_JUMP:g} to"
            f" {MAX_NORM_JUMP:g}: use a larger lamb or a lower strength"
        ]
    # Else it was balanced already.
    if strength and figures.get("relative_norm", 1.0) == 0.0 and "largest_gap" not in figures:
        return [
            (
                "no effect: the edit changes no weight"
                if edit.names
                else "no effect: what the edit hangs beside the model does nothing"
            )
        ]
    if strength and figures.get("moved", 1.0) < 0.01:
        return [f"no effect: a target is still read as before (moved by {figures['moved']:.3f} of its size)"]
    if (
        strength
        and "further" not in figures
        and (left := max(figures.get(f"forget_accuracy{of}", 0.0) for of in ("", " 2"))) > 0
    ):
        return [
            f"no step sufficed: {left:.0%} of the target's pictures are still read as the target: choose another layer,"
            " or raise max_search_iterations"
        ]
    if strength and figures.get("residual", 0.0) > 0.99:
        return [f"no effect: a target is read no nearer to its anchor than before (residual {figures['residual']:.3f})"]
    return []


def picture_failures(pictures: Mapping[Prompt, tuple[Tensor, Tensor]]) -> list[str]:
    """Collapse: pictures that became one flat colour, or noise.

    Pictures that hold no numbers never come into the store.
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
    """Whether a picture (3, h, w) is of one colour."""
    return float(picture.std()) < _FLAT_DEVIATION


def is_noise(picture: Tensor) -> bool:
    """Whether neighbouring pixels of a picture (3, h, w) have little to do with each other."""
    steps = sum(float(picture.diff(dim=dim).square().mean()) for dim in (-2, -1)) / 2
    return not is_blank(picture) and steps > _NOISE_ROUGHNESS * float(picture.var(dim=(-2, -1)).mean())


def _sides(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    kept = list(pairs)
    return [before for before, _ in kept], [after for _, after in kept]
