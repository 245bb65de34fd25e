"""What kinds of edits have in common: those that change weights, and those that run beside them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self, cast

from torch import Tensor

from ..models import ModelView
from ..models.checkpoint.pipeline import Pipeline
from ..models.module_view import AnyModel
from .applied import EditHandle
from .base import Edit, EditOrigin
from .weights import add_to_weights


@dataclass(frozen=True)
class EditBase(ABC):
    """What any kind does in the same way."""

    def stamped(self, origin: EditOrigin) -> Self:
        made = {"origin": origin, "maker": None}  # Fields of every kind.
        return replace(self, **made)

    def apply_to(self, target: ModelView | Pipeline) -> EditHandle:
        """Apply the edit until the handle's `remove` is called; several edits may be removed in any order."""
        return EditHandle(cast(Edit, self), target)

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that its file stores, by name."""

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

    @classmethod
    def can_bake(cls) -> bool:
        return False

    def thin_factors(self, name: str, weight: Tensor) -> None:
        return None
