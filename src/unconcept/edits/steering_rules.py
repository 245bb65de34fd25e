"""What steering edits do inside cross-attention: each rule is data with one verb, `steer`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..linalg.attention_guidance import normalised_guidance, subtract_negative
from ..linalg.gated_projection import SimilarityGate, component_along
from ..models.hooks.cross_attention import AttentionInputs, MixingStep, mix_values

# By attention: values and weights that were last asked for, and what was made of them.
SteeringCache = dict[Any, tuple[Tensor, Tensor, Tensor]]


class SteeringRule(Protocol):
    """A frozen dataclass of tensors and numbers."""

    @property
    def null(self) -> Tensor:
        """Text states of the empty text (l, d), which are never steered."""

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        """What attention mixes (b, p, o), steered by `weight` (b, 1, 1): 0 leaves a row bitwise as it was, 1 is the
        rule.

        What depends on the text alone may be kept in `known`, which lives as long as the edit is applied.
        """


@dataclass(frozen=True)
class Decomposition:
    """Takes from each token's value its part along the targets' values, and leaves the start token's alone (AdaVD)."""

    targets: Tensor  # text states (n, d)
    null: Tensor
    s: float
    p: float
    eps: float
    token_sim: bool  # else the whole part, whatever the resemblance
    joint_cfg: bool  # the empty text's value stands beside value and target

    def __post_init__(self) -> None:
        _check(self.targets, self.null)

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        values, live = reading.values, torch.is_grad_enabled() and reading.values.requires_grad
        last = known.get(reading.attention)
        if live or last is None or not (torch.equal(values, last[0]) and torch.equal(weight, last[1])):
            last = values, weight, self.retained_values(values, weight, reading.value_map)
            if not live:
                known[reading.attention] = last  # A sampler reads the same texts at every step.
        return mix(replace(reading, values=last[2]))

    def retained_values(self, values: Tensor, weight: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Values (b, l, o) without `weight` times their part along what `read` says of the targets (n, d) -> (n, o)."""
        on = weight.flatten() != 0
        # Above all the unconditioned side of guidance: nothing is solved for it, and 0 times what is no number is none
        # either.
        if not on.all():
            found = values.clone()
            if on.any():
                found[on] = self.retained_values(values[on], weight[on], read)
            return found
        given = values[:, 1:]
        null = self.null[1:].to(values)
        beside = (
            read(null).to(torch.promote_types(values.dtype, torch.float32)).square().sum(1) if self.joint_cfg else None
        )
        gate = SimilarityGate(self.s, self.p, self.eps) if self.token_sim else None
        erased = component_along(given, read(self.targets.to(values)), gate, beside)
        return torch.cat([values[:, :1], given - weight.to(values) * erased], 1)


@dataclass(frozen=True)
class Subtraction:
    """Takes from what a place mixes alpha times what it would mix of the negative texts (NASA)."""

    negative: Tensor  # text states (l', d), of several texts one after another
    null: Tensor
    alpha: float
    compensate: bool

    def __post_init__(self) -> None:
        _check(self.negative, self.null)

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        plain = mix(reading)
        found = subtract_negative(plain, _of_negative(reading, self.negative), self.alpha, self.compensate)
        return _blended(plain, found, weight)


@dataclass(frozen=True)
class Guidance:
    """Leads what a place mixes away from what it would mix of the negative texts, at a bounded length (NAG)."""

    negative: Tensor  # text states (l', d), of several texts one after another
    null: Tensor
    phi: float
    tau: float
    a: float

    def __post_init__(self) -> None:
        _check(self.negative, self.null)

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        plain = mix(reading)
        found = normalised_guidance(plain, _of_negative(reading, self.negative), self.phi, self.tau, self.a)
        return _blended(plain, found, weight)


STEERING_RULES: dict[str, type[Decomposition] | type[Subtraction] | type[Guidance]] = {
    "decomposition": Decomposition,
    "subtraction": Subtraction,
    "guidance": Guidance,
}


def _of_negative(reading: AttentionInputs, negative: Tensor) -> Tensor:
    """Z-: the negative texts as the maps read them, past all other rules and what a row is given by its text, which
    would take out what they are there for.
    """
    return mix_values(reading.with_text(negative[None].to(reading.states)))


def _blended(plain: Tensor, found: Tensor, weight: Tensor) -> Tensor:
    return torch.where(weight == 0, plain, torch.where(weight == 1, found, plain + weight.to(plain) * (found - plain)))


def _check(rows: Tensor, null: Tensor) -> None:
    fits = rows.ndim == null.ndim == 2 and rows.shape[1] == null.shape[1] and len(rows) > 0 and len(null) > 1
    require(
        fits,
        f"texts {tuple(rows.shape)} and empty text {tuple(null.shape)} are not text states of one width",
        EditError,
    )
