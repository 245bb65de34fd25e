"""Edits that add something to weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..linalg.low_rank import numerical_rank
from ..models import ModelView
from ..models.hooks.low_rank import lora_hooks
from ..models.module_view import AnyModel
from .base import validate_strength
from .common import WeightEdit
from .edit_figures import weight_effect
from .edit_file import StoredEdit
from .registry import edit_kind
from .weights import parameter_modules, require_same_base

_SHARED_FACTOR = "down"


@edit_kind("low_rank")
@dataclass(frozen=True)
class LowRankEdit(WeightEdit):
    """Adds up @ down to each named parameter, W' = W + up @ down: up (o, r), down (r, d), float32 or wider."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.pairs))

    @contextmanager
    def applied(self, model: AnyModel) -> Iterator[None]:
        """Change the weights inside the block or, where they are quantised or offloaded, what their maps compute."""
        if not getattr(model, "fixed", ""):
            with super().applied(model):
                yield
            return
        require_same_base(self.origin, model, self.names)
        modules = parameter_modules(model, self.names)
        with lora_hooks([(modules[name], *self._on(model.device, name)) for name in self.names]):
            yield

    def _on(self, device: torch.device, name: str) -> tuple[Tensor, Tensor]:
        up, down = self.pairs[name]
        return up.to(device), down.to(device)

    @property
    def parameters(self) -> int:
        distinct = {id(t): t.numel() for pair in self.pairs.values() for t in pair}
        return sum(distinct.values())

    @property
    def hash(self) -> str:
        return hash_tensors(self.tensors())

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Return up @ down; for a convolution's weight (o, i, h, w), as a matrix (o, i * h * w) in that shape."""
        up, down = self.pairs[name]
        delta = up @ down
        return (
            delta.unflatten(1, weight.shape[1:])
            if weight.ndim > 2 and delta.shape == weight.flatten(1).shape
            else delta
        )

    def scaled(self, strength: float, amplify: bool = False) -> "LowRankEdit":
        strength = validate_strength(strength, amplify)
        return replace(self, pairs={name: (strength * up, down) for name, (up, down) in self.pairs.items()})

    def thin_factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.pairs[name]

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return the figures of `weight_effect`; `rank` is the largest of all changes."""
        rank = max(numerical_rank(*pair) for pair in self.pairs.values())
        return weight_effect(self, model, request, {"rank": float(rank)})

    def describe(self) -> str:
        return f"adds low-rank products to {len(self.names)} weights"

    def tensors(self) -> dict[str, Tensor]:
        """The factors by name; a down factor that all layers share is stored once."""
        tensors = {f"{name}.up": up for name, (up, _) in self.pairs.items()}
        downs = {id(down): down for _, down in self.pairs.values()}
        if len(downs) == 1:
            return tensors | {_SHARED_FACTOR: next(iter(downs.values()))}
        return tensors | {f"{name}.down": down for name, (_, down) in self.pairs.items()}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "LowRankEdit":
        """Invert `save`. Raises `EditError` if the factors do not fit."""
        return cls(low_rank_pairs(stored.tensors), origin=stored.origin)


def low_rank_pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Collect pairs (up, down) by the full name of their weight from tensors named as in `LowRankEdit.tensors`.

    Raises `EditError` if the halves of a pair do not fit.
    """
    pairs = {}
    for key, up in tensors.items():
        if not key.endswith(".up"):
            continue
        name = key.removesuffix(".up")
        down = tensors.get(_SHARED_FACTOR, tensors.get(f"{name}.down"))
        if down is None or not (up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0]):
            raise EditError(f"{name} has no up and down factor that fit together")
        pairs[name] = (up, down)
    require(bool(pairs), "it changes nothing", EditError)
    return pairs


@edit_kind("dense")
@dataclass(frozen=True)
class DenseEdit(WeightEdit):
    """Adds a delta to each named parameter of any shape, W' = W + delta, float32 or wider."""

    deltas: Mapping[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.deltas))

    @property
    def parameters(self) -> int:
        return sum(delta.numel() for delta in self.deltas.values())

    @property
    def hash(self) -> str:
        return hash_tensors(self.deltas)

    def tensors(self) -> Mapping[str, Tensor]:
        return self.deltas

    def delta(self, name: str, weight: Tensor) -> Tensor:
        return self.deltas[name]

    def scaled(self, strength: float, amplify: bool = False) -> "DenseEdit":
        strength = validate_strength(strength, amplify)
        return replace(self, deltas={name: strength * delta for name, delta in self.deltas.items()})

    def thin_factors(self, name: str, weight: Tensor) -> None:
        return None

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return the figures of `weight_effect`, without the rank, which would need an SVD of every matrix."""
        return weight_effect(self, model, request, {})

    def describe(self) -> str:
        return f"changes {len(self.names)} weights"

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "DenseEdit":
        """Invert `save`."""
        require(bool(stored.tensors), "it changes nothing", EditError)
        return cls(stored.tensors, origin=stored.origin)
