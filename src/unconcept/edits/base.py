"""What every edit can do, and where it came from."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from ..core.errors import EditError, SettingsError, require
from ..core.request import Request
from ..models import ModelView
from ..models.checkpoint.pipeline import Pipeline

EDIT_FORMAT = "unconcept-edit"
EDIT_FORMAT_VERSION = "1"
_MAX_STRENGTH = 100  # nothing beyond is meant


def validate_strength(strength: float) -> float:
    """The strength; `SettingsError` unless an edit can be scaled by it."""
    message = (
        f"strength {strength}: give a number from -{_MAX_STRENGTH} to {_MAX_STRENGTH}; 0 is the identity, 1 the edit as"
        " made"
    )
    require(abs(strength) <= _MAX_STRENGTH, message, SettingsError)
    return strength


@dataclass(frozen=True)
class EditOrigin:
    """The header of an edit file."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    method: str
    settings: Mapping[str, Any]
    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...]
    kind: str  # of the concepts
    family: str
    base: str  # what the model was called
    base_hash: str  # of the tensors the edit changes, as they were
    version: str  # of this library
    report: Mapping[str, int | float] = field(default_factory=dict)  # exact figures of the solve: rank, residual
    licence: str = ""  # of the base, as its model card names it; "" where it names none
    libraries: Mapping[str, str] = field(default_factory=dict)  # versions of others' libraries it was made with

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EditOrigin":
        """`EditError` unless every field is there with its type.

        Those with a default may be missing, as in older files.
        """
        try:
            return _ORIGIN.validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise EditError(f"its origin cannot be read: {f'{place}: ' * bool(place)}{fault['msg'].lower()}") from None


_ORIGIN = TypeAdapter(EditOrigin)


class ApplicableEdit(Protocol):
    """What a model can be drawn with: an edit, or several at once."""

    @property
    def hash(self) -> str:
        """Of its content."""

    def applied(self, model: ModelView) -> AbstractContextManager[None]:
        """As an edit's."""


class AppliedEdit(Protocol):
    """An edit that is on a model."""

    def remove(self) -> None:
        """Take it off: with the last edit of a model, every weight is bitwise what it was."""


class Edit(Protocol):
    """The difference to a model, as data."""

    @property
    def origin(self) -> EditOrigin | None:
        """Where it came from; None until it is stamped."""

    @property
    def maker(self) -> "Callable[[Edit], EditOrigin] | None":
        """What makes its origin where it has none; None where nobody knows."""

    @property
    def solve_figures(self) -> Mapping[str, float]:
        """What its method has to say of the solve, by name; it goes into the origin's report."""

    def stamped(self, origin: EditOrigin) -> "Edit":
        """The same edit with its origin."""

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the parameters it changes, sorted."""

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Full names of the parameters it is bound to: those it changes, or those beside which it runs."""

    @property
    def parameters(self) -> int:
        """How many numbers it is made of."""

    @property
    def hash(self) -> str:
        """Content hash of its tensors."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What it is stored as."""

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """What is added to one parameter, in its shape; `weight` is its value in the unedited model."""

    def scaled(self, strength: float) -> "Edit":
        """0 is the identity, 1 the edit as made; `SettingsError` on what is no strength."""

    def applied(self, model: ModelView) -> AbstractContextManager[None]:
        """Inside, the model computes with the edit; afterwards its weights are bitwise what they were."""

    def apply_to(self, target: ModelView | Pipeline) -> AppliedEdit:
        """Apply it to a view, or to a diffusers pipeline in memory, until the handle's `remove` is called."""

    @classmethod
    def can_bake(cls) -> bool:
        """Whether it is a change of weights, which a checkpoint or a LoRA can hold."""

    def static(self) -> "Edit":
        """What of it weights can hold, for every prompt alike; itself where there is no more or no less."""

    def thin_factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """Exact factors up (o, r) and down (r, d) of what is added to one parameter; None where there are none."""

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Exact figures of what it does to the texts of a request, without a picture."""

    def describe(self) -> str:
        """What it is, in a few words that follow "the edit"."""

    def save(self, path: str | Path) -> None:
        """Write one safetensors file with the origin in its header."""


def origin_of(edit: Edit) -> EditOrigin:
    """The origin of an edit, made now if it came straight from a method."""
    if edit.origin is not None:
        return edit.origin
    if edit.maker is None:
        raise EditError("the edit has no origin: stamp it first")
    return edit.maker(edit)
