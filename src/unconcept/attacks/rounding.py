"""Rounds the edited weights to few bits, as people do who want a smaller file; it has no paper.

A small change of weights may fall between two levels. Nobody needs to mean any harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import require
from ..edits import DenseEdit
from ..linalg.rounding import StorageFormat, round_weight
from ..models.families import FAMILIES
from ..models.hooks.modules import denoiser_parameters
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack


@attack("rounding", paper="none", rung="weights", scope="concept", families=FAMILIES, place=LadderPlace("rounding"))
@dataclass(frozen=True)
class Rounding:
    """Rounds the linear weights of the edited denoiser to 8 and 4 bits, each format by itself.

    An edit of weights is rounded with them. One that changes no weight runs on beside the rounded base.
    """

    formats: tuple[StorageFormat, ...] = ("int8", "nf4", "int4")
    """Storage formats to try: int8 and int4 have a scale for each output channel, nf4 one for each 64 weights."""

    def __post_init__(self) -> None:
        require(bool(self.formats), "rounding: formats is empty: give at least one of int8, int4, nf4")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: formats that are tried."""
        return len(self.formats)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Try one format in each attempt: the rounding errors Q(W) - W on top of the edited model."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        for tried, storage in enumerate(self.formats, 1):
            left = case.unsolved
            if not left:
                return
            with case.edit_applied():
                weights = _rounded_weights(case)
                errors = {name: round_weight(weight, storage) - weight for name, weight in weights.items()}
            over = DenseEdit({name: error.to(_wide(error)) for name, error in errors.items()})
            yield AttackAttempt(tried, {i: AttackInput(case.prompts[i], weights=over) for i in left})


def _rounded_weights(case: AttackCase) -> dict[str, Tensor]:
    """The weights that storage formats round: those of every linear map of the denoiser, and all that the edit changes
    elsewhere, if they are matrices.
    """
    denoiser = case.model.spec.denoiser
    linear = {
        f"{denoiser}.{name}.weight"
        for name, module in case.model.modules("denoiser").named_modules()
        if isinstance(module, nn.Linear)
    }
    found = {name: weight for name, weight in denoiser_parameters(case.model).items() if name in linear}
    for name in getattr(case.edit, "names", ()):
        part, _, rest = name.partition(".")
        weight = case.model.modules(part).get_parameter(rest)
        if weight.ndim > 1:
            found[name] = weight
    return {name: weight.detach() for name, weight in found.items()}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
