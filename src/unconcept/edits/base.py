"""The protocol of every edit, and the record of its origin."""

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
_MAX_STRENGTH = 100  # A larger one is taken for a typing error.


def validate_strength(strength: float, amplify: bool = False) -> float:
    """Return the strength. Raises `SettingsError` if an edit cannot be scaled by it.

    A negative strength turns an edit into its undo and beyond: it needs `amplify`, so that nobody asks for it unawares.
    """
    message = (
        f"strength {strength!r} is out of range: give a number from -{_MAX_STRENGTH} to {_MAX_STRENGTH}; 0 has no"
        " effect, 1 is the edit as made"
    )
    require(isinstance(strength, int | float) and abs(strength) <= _MAX_STRENGTH, message, SettingsError)
    message = (
        f"strength {strength} makes a model draw more of what the edit erases: if you mean it, pass --amplify, or"
        " amplify=True in Python"
    )
    require(strength >= 0 or amplify, message, SettingsError)
    return strength


@dataclass(frozen=True)
class EditOrigin:
    """Says how an edit was made: the header of an edit file."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    method: str
    settings: Mapping[str, Any]
    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...]
    kind: str  # of the concepts
    family: str
    base: str  # name of the base model
    base_hash: str  # of the tensors that the edit changes, before the edit
    version: str  # of this library
    report: Mapping[str, int | float] = field(default_factory=dict)  # exact figures of the solve: rank, residual
    licence: str = ""  # of the base, from its model card; "" if the card names none
    libraries: Mapping[str, str] = field(default_factory=dict)  # versions of the other libraries used
    adviser: str = ""  # hash of the judge that the method asked; "" for none, and then it is not written
    text_side: Mapping[str, str] = field(default_factory=dict)  # hashes by `text_side`; not written if there are none

    def to_json(self) -> str:
        told = {name: value for name, value in asdict(self).items() if value or name not in ("adviser", "text_side")}
        return json.dumps(told, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EditOrigin":
        """Invert `to_json`. Raises `EditError` if a field is missing or has another type.

        Fields with a default may be missing, as in older files.
        """
        try:
            return _ORIGIN.validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise EditError(f"its origin cannot be read: {f'{place}: ' * bool(place)}{fault['msg'].lower()}") from None


_ORIGIN = TypeAdapter(EditOrigin)


class ApplicableEdit(Protocol):
    """Anything that can be applied while images are sampled: one edit, or several at once."""

    @property
    def hash(self) -> str:
        """Content hash."""

    def applied(self, model: ModelView) -> AbstractContextManager[None]:
        """Inside the block, the model computes with it."""


class AppliedEdit(Protocol):
    """An edit that is applied to a model."""

    def remove(self) -> None:
        """Remove it. Without any edit, every weight of the model is bitwise as before."""


class Edit(Protocol):
    """The difference to a model, as data."""

    @property
    def origin(self) -> EditOrigin | None:
        """How it was made; None until `stamped`."""

    @property
    def maker(self) -> "Callable[[Edit], EditOrigin] | None":
        """Builds its origin if it has none; None if that is not possible."""

    @property
    def solve_figures(self) -> Mapping[str, float]:
        """Figures of the method's solve, by name; they go into the origin's report."""

    def stamped(self, origin: EditOrigin) -> "Edit":
        """Return the same edit with its origin."""

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the parameters it changes, sorted."""

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Full names of the parameters that it changes or runs beside."""

    @property
    def parameters(self) -> int:
        """Number of its own parameters."""

    @property
    def hash(self) -> str:
        """Content hash of its tensors."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that its file stores, by name."""

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Return what it adds to one parameter, in its shape; `weight` is its value in the unedited model."""

    def scaled(self, strength: float, amplify: bool = False) -> "Edit":
        """Return the edit scaled: 0 has no effect, 1 is the edit as made, and below 0, which needs `amplify`, a model
        draws more of what it erases. Raises `SettingsError` if out of range.
        """

    def applied(self, model: ModelView) -> AbstractContextManager[None]:
        """Inside the block, the model computes with the edit; afterwards its weights are bitwise as before."""

    def apply_to(self, target: ModelView | Pipeline) -> AppliedEdit:
        """Apply it to a view, or to a diffusers pipeline in memory, until the handle's `remove` is called."""

    @classmethod
    def can_bake(cls) -> bool:
        """Whether it changes weights, so that a checkpoint or a LoRA can hold it."""

    def static(self) -> "Edit":
        """Return its part that weights can hold, the same for every prompt; itself if it has no other form."""

    def thin_factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return exact factors up (o, r) and down (r, d) of its change of one parameter; None if it has none."""

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return exact figures of its effect on the texts of a request, without an image."""

    def describe(self) -> str:
        """Describe it in a few words that follow "the edit"."""

    def save(self, path: str | Path) -> None:
        """Write one safetensors file with the origin in its header."""


def origin_of(edit: Edit) -> EditOrigin:
    """Return the origin of an edit, or build it for an edit straight from a method. Raises `EditError` if neither."""
    if edit.origin is not None:
        return edit.origin
    if edit.maker is None:
        raise EditError("the edit has no origin: call `stamped` with one first")
    return edit.maker(edit)
