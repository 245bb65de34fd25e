"""Edits by one linear map on the text for all layers: W' = W (I + T) with T = X^T Y.

They are two thin matrices, whatever the model's depth.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.request import Request
from ..linalg.low_rank import numerical_rank, reduce_rows
from ..models import ModelView
from ..models.hooks.forward import map_text_states
from ..models.module_view import AnyModel
from .base import validate_strength
from .common import WeightEdit
from .edit_figures import weight_effect
from .edit_file import StoredEdit
from .registry import edit_kind
from .weights import require_same_base

_ALIGNMENT_BYTES = 64  # bytes, as torch allocates


@edit_kind("text_map")
@dataclass(frozen=True)
class TextMapEdit(WeightEdit):
    """Replaces a text state s by s + (s Y^T) X for every map named in `maps`; x, y (n, d), float32 or wider."""

    x: Tensor
    y: Tensor
    maps: tuple[str, ...]  # full names of the weights (o, d) that read through it

    def __post_init__(self) -> None:
        fits = self.x.ndim == 2 and self.x.shape == self.y.shape
        require(fits, f"x {tuple(self.x.shape)} and y {tuple(self.y.shape)} are not (n, d) of one shape", EditError)
        require(bool(self.maps), "it changes nothing: name at least one map", EditError)

    @classmethod
    def thin(
        cls, x: Tensor, y: Tensor, maps: tuple[str, ...], solve_figures: Mapping[str, float] | None = None
    ) -> "TextMapEdit":
        """Build the edit; if there are more rows than dimensions, reduce them to d rows with the same T."""
        return cls(*reduce_rows(x, y), tuple(sorted(maps)), solve_figures=solve_figures or {})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.maps))

    @property
    def parameters(self) -> int:
        return self.x.numel() + self.y.numel()

    @property
    def hash(self) -> str:
        return hash_json([hash_tensors(self.tensors()), self.names])

    def tensors(self) -> Mapping[str, Tensor]:
        return {"x": self.x, "y": self.y}

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Return (W X^T) Y in the wider of the two dtypes, or W T if that is cheaper: many rows, several maps."""
        require(
            weight.shape[-1:] == self.x.shape[-1:],
            f"the edit's width {self.x.shape[-1]} is not that of {name}, {tuple(weight.shape)}: apply it to its own"
            " base",
            EditError,
        )
        wide = torch.promote_types(weight.dtype, self.x.dtype)
        # Rounding in kernels depends on alignment: align, so that a weight gives the same bits wherever it was loaded.
        w = weight.detach().to(wide)
        w = w if w.data_ptr() % _ALIGNMENT_BYTES == 0 else w.clone()
        if len(self.maps) > 1 and 2 * len(self.x) > self.x.shape[1]:
            return w @ self._map.to(weight.device, wide)
        return (w @ self.x.to(weight.device, wide).T) @ self.y.to(weight.device, wide)

    @cached_property
    def _map(self) -> Tensor:
        """T (d, d) float64, computed once for all layers."""
        return self.x.double().T @ self.y.double()

    def scaled(self, strength: float, amplify: bool = False) -> "TextMapEdit":
        return replace(self, x=validate_strength(strength, amplify) * self.x)

    @contextmanager
    def applied(self, model: AnyModel) -> Iterator[None]:
        """Change the weights inside the block or, where they are quantised or offloaded, the texts that they read."""
        by = self.applied_by_hooks(cast(ModelView, model)) if getattr(model, "fixed", "") else super().applied(model)
        with by:
            yield

    @contextmanager
    def applied_by_hooks(self, model: ModelView) -> Iterator[None]:
        """Apply the same edit without changing a weight: the denoiser gets s + (s Y^T) X instead of its text states s.

        Use it for quantised, compiled or offloaded models. Raises `EditError` unless the edit covers all text maps.
        """
        require_same_base(self.origin, model, self.names)
        message = f"{model.name} has text maps that the edit leaves alone: only weights can be changed by it"
        require(set(self.names) == set(model.text_maps()), message, EditError)
        with map_text_states(model.modules("denoiser"), model.spec.text_projection, self.x, self.y):
            yield

    def thin_factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.double() @ self.x.double().T, self.y

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return the figures of `weight_effect`; `rank` is that of T."""
        return weight_effect(self, model, request, {"rank": float(numerical_rank(self.x.T, self.y))})

    def details(self) -> dict[str, Any]:
        return {"maps": self.names}

    def describe(self) -> str:
        return f"maps the text states that {len(self.maps)} weights take as input"

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "TextMapEdit":
        """Invert `save`. Raises `EditError` if the factors do not fit."""
        require({"x", "y"} <= set(stored.tensors), "it lacks x or y", EditError)
        return cls(stored.tensors["x"], stored.tensors["y"], stored.texts("maps"), origin=stored.origin)
