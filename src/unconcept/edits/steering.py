"""Edits that act while sampling and change no weight."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..core.registry import suggest
from ..core.request import Request
from ..models import ModelView
from ..models.hooks.cross_attention import AttentionInputs, MixingStep, cross_attentions, is_null_text, steer_attentions
from ..models.hooks.joint_guidance import change_joint_values, guide_joint_attention
from ..models.hooks.modules import select_keys_or_values
from .common import ScaledEdit
from .edit_file import StoredEdit, is_finite_number
from .registry import edit_kind
from .steering_rules import STEERING_RULES, Decomposition, Guidance, JointDecomposition, SteeringCache, SteeringRule
from .weights import require_same_base


@edit_kind("steering")
@dataclass(frozen=True)
class SteeringEdit(ScaledEdit):
    """Applies a rule inside the cross-attentions that the text maps `maps` belong to, or in all joint attentions.

    It leaves rows of the empty text unchanged, so guidance still starts from an unsteered empty text, in whichever half
    of the batch that is. A negative prompt that is not empty is steered like any prompt.
    """

    rule: SteeringRule
    maps: tuple[str, ...]  # full names of the weights (o, d) that read the text

    def __post_init__(self) -> None:
        require(bool(self.maps), "it steers nothing: name at least one map", EditError)

    @property
    def bound_names(self) -> tuple[str, ...]:
        return self.maps

    def tensors(self) -> Mapping[str, Tensor]:
        return {name: value for name, value in vars(self.rule).items() if isinstance(value, Tensor)}

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Steer inside the block. Raises `EditError` with both hashes if the edit is for other weights."""
        require_same_base(self.origin, model, self.maps)
        with self._steered(model):
            yield

    def _steered(self, model: ModelView) -> AbstractContextManager[None]:
        if model.spec.attention == "cross":
            return steer_attentions(cross_attentions(model, self.maps), partial(self._steer, known={}))
        rule = self.rule
        if isinstance(rule, JointDecomposition):
            return change_joint_values(model, rule.texts, self._weight, rule.retained_values)
        message = f"{type(rule).__name__.lower()} steers cross-attention, which {model.name} has none of"
        require(isinstance(rule, Guidance), f"{message}: give a model of the edit's family", EditError)
        assert isinstance(rule, Guidance)
        return guide_joint_attention(model, rule.negative_texts, self._weight, rule.combine)

    def _steer(self, reading: AttentionInputs, mix: MixingStep, known: SteeringCache) -> Tensor:
        return self.rule.steer(reading, self._weight(reading.states), mix, known)

    def _weight(self, states: Tensor) -> Tensor:
        """The strength of each row (b, 1, 1); 0 for the empty text."""
        wide = torch.promote_types(states.dtype, torch.float32)
        return self.strength * (~is_null_text(states, self.rule.null)).to(wide)[:, None, None]

    def describe(self) -> str:
        return "changes no weight but steers while sampling"

    def details(self) -> dict[str, Any]:
        kind = next(name for name, rule in STEERING_RULES.items() if isinstance(self.rule, rule))
        settings = {name: value for name, value in vars(self.rule).items() if not isinstance(value, Tensor)}
        return {"rule": kind, "settings": settings, "strength": self.strength, "maps": list(self.maps)}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "SteeringEdit":
        """Invert `save`. Raises `EditError` if the rule is unknown or lacks a field."""
        name, settings = (stored.details.get(key) for key in ("rule", "settings"))
        require(isinstance(name, str) and isinstance(settings, dict), "it has no rule and settings", EditError)
        kind = suggest(str(name), STEERING_RULES, "steering rule")
        given: dict[str, Any] = {**stored.tensors, **(settings or {})}
        wanted = {f.name: f.type for f in fields(kind)}
        require(
            given.keys() == wanted.keys(),
            f"its {name} has the fields {sorted(given)}, not {sorted(wanted)}",
            EditError,
        )
        for label, value in given.items():
            sort: Any = wanted[label]
            sound = (
                isinstance(value, Tensor)
                if sort is Tensor
                else isinstance(value, bool)
                if sort is bool
                else is_finite_number(value)
            )
            require(sound, f"its {label} is {value!r}, which has the wrong type or is not finite", EditError)
        strength = stored.number("strength")
        return cls(kind(**given), stored.texts("maps"), strength=strength, origin=stored.origin)

    @torch.no_grad()
    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return exact figures that need no image, if the rule has any: relative changes of last subject token values.

        `moved` is the change of the target that changes least, `drift` that of the retained text that changes most.
        """
        if not isinstance(self.rule, Decomposition):
            return {}
        found = {"moved": min(self._moved(self.rule, model, request.targets))}
        return found | ({"drift": max(self._moved(self.rule, model, request.retain))} if request.retain else {})

    def _moved(self, rule: Decomposition, model: ModelView, texts: tuple[str, ...]) -> list[float]:
        states, at = model.embed(texts, at="all"), torch.tensor(model.tokenizer(texts).index("last_subject"))
        change, size = torch.zeros(len(states)), torch.zeros(len(states))
        for place in at[at > 0].unique().tolist():  # The start token's value never changes.
            # Each token has its own system, of the size of the number of targets: solve only the needed ones.
            rows, ends = (at == place).nonzero()[:, 0], [0, place]
            own, narrow = states[rows][:, ends], replace(rule, null=rule.null[ends])
            weight = torch.full((len(rows), 1, 1), self.strength, device=states.device)
            for w in select_keys_or_values(model.text_maps(), "V").values():
                read = partial(torch.nn.functional.linear, weight=w.detach().to(states))
                values = read(own)
                moved = values - narrow.retained_values(values, weight, read)
                for sums, part in ((change, moved), (size, values)):
                    sums[rows] += part[:, 1].float().square().sum(1).cpu()
        return (change / size.clamp_min(1e-30)).sqrt().tolist()
