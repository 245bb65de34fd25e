"""The rules that steering edits apply inside attention to the text. Each is data with one verb, `steer`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..linalg.attention_guidance import normalised_guidance, subtract_negative
from ..linalg.gated_projection import SimilarityGate, component_along
from ..models.hooks.cross_attention import AttentionInputs, MixingStep, mix_values

# By attention: the last values and weights, and the result for them.
SteeringCache = dict[Any, tuple[Tensor, Tensor, Tensor]]


class SteeringRule(Protocol):
    """Protocol of a steering rule: a frozen dataclass of tensors and numbers."""

    @property
    def null(self) -> Tensor:
        """Text states of the empty text (l, d), which are never steered."""

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        """Return the steered output of an attention (b, p, o).

        `weight` (b, 1, 1) is the strength: 0 leaves a row bitwise unchanged, 1 is the full rule. Results that depend on
        the text alone may be cached in `known`, which lives as long as the edit is applied.
        """


@dataclass(frozen=True)
class Decomposition:
    """Removes from each token's value its component along the targets' values, except the start token's (AdaVD)."""

    targets: Tensor  # text states (n, d)
    null: Tensor
    s: float
    p: float
    eps: float
    token_sim: bool  # scale the component by its likeness; else remove it whole
    joint_cfg: bool  # append the empty text's value to value and target

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
        """Return values (b, l, o) minus `weight` times their component along the targets' values.

        `read` maps the targets (n, d) to values (n, o).
        """
        on = weight.flatten() != 0
        # Solve nothing for rows of weight 0, above all guidance's unconditional half; 0 times NaN would be NaN.
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
class JointDecomposition:
    """Does the same in joint attention, whose values of a text depend on step and picture (AdaVD).

    So each target has a text stream of its own beside the picture of the prompt, and its value is the last subject
    token's there: one of each encoder whose tokens follow each other.
    """

    targets: Tensor  # states of whole padded texts (n * l, d)
    places: Tensor  # positions (n, k) of their last subject tokens
    null: Tensor
    first: int  # first position whose value may change, behind a start token
    s: float
    p: float
    eps: float
    token_sim: bool
    joint_cfg: bool

    def __post_init__(self) -> None:
        _check(self.targets, self.null)
        fits = self.places.ndim == 2 and len(self.places) * len(self.null) == len(self.targets)
        message = (
            f"{len(self.targets)} states are not whole texts of {len(self.null)} each for {len(self.places)} targets"
        )
        require(fits, f"{message}: make the edit anew", EditError)

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        raise EditError("it steers joint attention, and this is cross-attention: give a model of the edit's family")

    @property
    def texts(self) -> Tensor:
        """States of the texts that need a stream of their own (m, l, d): the targets and, last, the empty text."""
        own = self.targets.view(-1, *self.null.shape)
        return torch.cat([own, self.null[None].to(own)]) if self.joint_cfg else own

    def retained_values(self, values: Tensor, beside: Tensor, weight: Tensor) -> Tensor:
        """Return values (b, l, o) minus `weight` (b, 1, 1) times their component along the targets' values.

        `beside` (b, m, l, o) are the values of `texts` at the same place, step and picture.
        """
        gate = SimilarityGate(self.s, self.p, self.eps) if self.token_sim else None
        places, found = self.places.to(values.device), []
        for own, others, share in zip(values, beside, weight.to(values), strict=True):
            wide = torch.promote_types(others.dtype, torch.float32)
            lengths = others[-1, self.first :].to(wide).square().sum(1) if self.joint_cfg else None
            targets = torch.cat([text[at] for text, at in zip(others, places, strict=False)])
            given = own[None, self.first :]
            kept = given - share * component_along(given, targets, gate, lengths)
            found.append(torch.cat([own[: self.first], kept[0]]))
        return torch.stack(found)


@dataclass(frozen=True)
class Subtraction:
    """Subtracts alpha times the attention output for the negative texts from the output for the prompt (NASA)."""

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
    """Moves the attention output away from its output for the negative texts, with a bounded norm (NAG)."""

    negative: Tensor  # text states (l', d), of several texts one after another
    null: Tensor
    phi: float
    tau: float
    a: float

    def __post_init__(self) -> None:
        _check(self.negative, self.null)

    def steer(self, reading: AttentionInputs, weight: Tensor, mix: MixingStep, known: SteeringCache) -> Tensor:
        return self.combine(mix(reading), _of_negative(reading, self.negative), weight)

    def combine(self, plain: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
        """The output for Z+ and Z- (b, p, o) at a weight (b, 1, 1)."""
        return _blended(plain, normalised_guidance(plain, negative, self.phi, self.tau, self.a), weight)

    @property
    def negative_texts(self) -> Tensor:
        """The states of whole padded texts (n, l, d), for joint attention."""
        message = (
            f"{len(self.negative)} negative states are not whole texts of {len(self.null)} each: make the edit anew"
        )
        require(len(self.negative) % len(self.null) == 0, message, EditError)
        return self.negative.view(-1, *self.null.shape)


STEERING_RULES: dict[str, type[Decomposition | JointDecomposition | Subtraction | Guidance]] = {
    "decomposition": Decomposition,
    "joint-decomposition": JointDecomposition,
    "subtraction": Subtraction,
    "guidance": Guidance,
}


def _of_negative(reading: AttentionInputs, negative: Tensor) -> Tensor:
    """Return Z-, the attention output for the negative texts.

    It bypasses all other rules and gates, which would remove what the negative texts are meant to supply.
    """
    return mix_values(reading.with_text(negative[None].to(reading.states)))


def _blended(plain: Tensor, found: Tensor, weight: Tensor) -> Tensor:
    return torch.where(weight == 0, plain, torch.where(weight == 1, found, plain + weight.to(plain) * (found - plain)))


def _check(rows: Tensor, null: Tensor) -> None:
    fits = rows.ndim == null.ndim == 2 and rows.shape[1] == null.shape[1] and len(rows) > 0 and len(null) > 1
    require(
        fits,
        f"texts {tuple(rows.shape)} and empty text {tuple(null.shape)} are not text states of one width: give (n, d)"
        " and (l, d) with l > 1",
        EditError,
    )
