"""Edits that add small networks to modules of the denoiser. They change no weight, and no weight could replace them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import EditError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.request import Request
from ..models import ModelView
from ..models.hooks.forward import change_outputs
from ..models.hooks.modules import denoiser_modules
from .common import ScaledEdit
from .edit_file import StoredEdit
from .registry import edit_kind
from .weights import require_same_base


@dataclass(frozen=True)
class BottleneckAdapter:
    """Receler's eraser, a bottleneck of width r: A(h) = up GELU(down h + down_bias) + up_bias on rows h (.., d)."""

    down: Tensor  # (r, d)
    down_bias: Tensor  # (r,)
    up: Tensor  # (d, r)
    up_bias: Tensor  # (d,)

    def __post_init__(self) -> None:
        r, d = self.down.shape if self.down.ndim == 2 else (0, 0)
        fits = (self.down_bias.shape, self.up.shape, self.up_bias.shape) == ((r,), (d, r), (d,))
        require(
            fits and r > 0,
            f"the parts of an eraser have shapes {[tuple(t.shape) for t in vars(self).values()]}, which do not fit"
            " together: give (r, d), (r,), (d, r) and (d,)",
            EditError,
        )

    def __call__(self, h: Tensor) -> Tensor:
        """Return A(h) (.., d) in the wider of the two dtypes."""
        wide = torch.promote_types(h.dtype, self.down.dtype)
        down, down_bias, up, up_bias = (t.to(wide) for t in (self.down, self.down_bias, self.up, self.up_bias))
        return F.linear(F.gelu(F.linear(h.to(wide), down, down_bias)), up, up_bias)

    def to(self, device: torch.device) -> "BottleneckAdapter":
        """Return the same eraser on another device."""
        return BottleneckAdapter(*(part.to(device) for part in vars(self).values()))


@edit_kind("adapter")
@dataclass(frozen=True)
class AdapterEdit(ScaledEdit):
    """Adds an eraser to the output h of each linear map in `bound_names`: the model goes on with h + strength A(h)."""

    erasers: Mapping[str, BottleneckAdapter]  # by the full name of the map's weight

    def __post_init__(self) -> None:
        require(bool(self.erasers), "it has no eraser: give at least one", EditError)

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Full names of the weights whose maps have an eraser."""
        return tuple(sorted(self.erasers))

    @property
    def hash(self) -> str:
        return hash_json([hash_tensors(self.tensors()), self.strength])

    def tensors(self) -> Mapping[str, Tensor]:
        return {
            f"{name}.{part}": tensor for name, eraser in self.erasers.items() for part, tensor in vars(eraser).items()
        }

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Run the erasers inside the block. Raises `EditError` with both hashes if the edit is for other weights."""
        own = require_same_base(self.origin, model, self.bound_names)
        wrong = next((name for name, w in own.items() if w.shape[0] != self.erasers[name].up.shape[0]), None)
        require(
            wrong is None,
            f"the eraser of {wrong} has another width than the model's map: apply the edit to its own base",
            EditError,
        )
        erasers = {name: eraser.to(model.device) for name, eraser in self.erasers.items()}
        with change_outputs(
            denoiser_modules(model, self.bound_names) if self.strength else {},
            lambda name, h: (h + self.strength * erasers[name](h)).to(h.dtype),
        ):
            yield

    def details(self) -> dict[str, Any]:
        return {"eraser": "bottleneck", "strength": self.strength}

    def describe(self) -> str:
        return "changes no weight, its erasers are networks of their own"

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "AdapterEdit":
        """Invert `save`. Raises `EditError` if an eraser is of another kind or its parts are missing or do not fit."""
        require(
            stored.details.get("eraser") == "bottleneck",
            f"its eraser is {stored.details.get('eraser')!r}, but only 'bottleneck' is known",
            EditError,
        )
        parts = tuple(f.name for f in fields(BottleneckAdapter))
        names = {name.rpartition(".")[0] for name in stored.tensors}
        wanted = {f"{name}.{part}" for name in names for part in parts}
        require(wanted == stored.tensors.keys(), "one of its erasers has missing or unknown parts", EditError)
        erasers = {}
        for name in sorted(names):
            erasers[name] = BottleneckAdapter(*(stored.tensors[f"{name}.{part}"] for part in parts))
        return cls(erasers, strength=stored.number("strength"), origin=stored.origin)

    @torch.no_grad()
    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return `relative_norm`: the norm of the erasers' output weights relative to that of the maps they follow.

        It is 0 if the erasers do nothing.
        """
        own = model.reference(self.bound_names)
        found = sum(
            float(eraser.up.float().square().sum() + eraser.up_bias.float().square().sum())
            for eraser in self.erasers.values()
        )
        size = sum(float(w.float().square().sum()) for w in own.values())
        return {"relative_norm": self.strength * (found / size) ** 0.5 if size else 0.0}
