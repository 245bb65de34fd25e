"""What kinds of edits have in common: those that change weights, and those that run beside them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

from torch import Tensor

from ..core.errors import EditError
from ..core.hashing import hash_json, hash_tensors
from ..core.request import Request
from ..models import ModelView
from ..models.checkpoint.pipeline import Pipeline
from ..models.module_view import AnyModel
from .applied import EditHandle
from .base import Edit, EditOrigin, origin_of, validate_strength
from .edit_file import StoredEdit, write_edit_file
from .registry import kind_name
from .weights import add_to_weights


@dataclass(frozen=True)
class EditBase(ABC):
    """What any kind has and does in the same way."""

    origin: EditOrigin | None = field(default=None, kw_only=True)
    solve_figures: Mapping[str, float] = field(default_factory=dict, kw_only=True)  # of the method, for the report
    maker: Callable[[Edit], EditOrigin] | None = field(default=None, kw_only=True, compare=False, repr=False)

    def stamped(self, origin: EditOrigin) -> Self:
        return replace(self, origin=origin, maker=None)

    def apply_to(self, target: ModelView | Pipeline) -> EditHandle:
        """Apply the edit until the handle's `remove` is called; several edits may be removed in any order."""
        return EditHandle(cast(Edit, self), target)

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that its file stores, by name."""

    def details(self) -> dict[str, Any]:
        """Return what its file says besides the tensors, as JSON data."""
        return {}

    def save(self, path: str | Path) -> None:
        write_edit_file(path, StoredEdit(kind_name(self), self.tensors(), origin_of(cast(Edit, self)), self.details()))

    def static(self) -> Edit:
        """Return its part that weights can hold, the same for every prompt."""
        return cast(Edit, self)


@dataclass(frozen=True)
class WeightEdit(EditBase):
    """A kind that changes the weights called `names`."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Full names of the parameters it changes, sorted."""

    @property
    def bound_names(self) -> tuple[str, ...]:
        return self.names

    @contextmanager
    def applied(self, model: AnyModel) -> Iterator[None]:
        """Change the weights inside the block. Raises `EditError` with both hashes if the edit is for other weights."""
        with add_to_weights(cast(Edit, self), model):
            yield

    @classmethod
    def can_bake(cls) -> bool:
        return True


@dataclass(frozen=True)
class BesideEdit(EditBase):
    """A kind that changes no weight and runs beside those called `bound_names`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Empty, because the edit changes no weight."""
        return ()

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors().values())

    @property
    def hash(self) -> str:
        return hash_json([hash_tensors(self.tensors()), self.details()])

    @classmethod
    def can_bake(cls) -> bool:
        return False

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Raise `EditError`, because no weight changes."""
        raise EditError(f"the edit {self.describe()}, so there is no delta of {name}: use `applied`")

    @abstractmethod
    def describe(self) -> str:
        """Describe it in a few words that follow "the edit"."""

    def thin_factors(self, name: str, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class ScaledEdit(BesideEdit):
    """A kind whose effect is multiplied by a number."""

    strength: float = field(default=1.0, kw_only=True)

    def scaled(self, strength: float, amplify: bool = False) -> Self:
        return replace(self, strength=validate_strength(strength, amplify) * self.strength)


@dataclass(frozen=True)
class SamplerEdit(ScaledEdit):
    """A kind without tensors that changes what a loop of sampling does."""

    @property
    def hash(self) -> str:
        return hash_json(self.details())

    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return nothing: what it changes shows in pictures alone."""
        return {}
