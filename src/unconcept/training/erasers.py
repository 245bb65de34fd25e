"""Erasers to train: small networks behind modules of the denoiser, the third kind of what a method trains beside `trained.py`'s two."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..edits import AdapterEdit, Bottleneck
from ..models import ModelView
from ..models.hooks import outputs_changed
from ..models.parts import frozen
from .trained import Switch, uniform


@dataclass
class Erasers:
    """h + A(h) behind each map, A a bottleneck whose way in begins as torch's linear maps do, and whose way out begins at zero."""

    model: ModelView
    maps: Mapping[str, nn.Module]  # by the full name of their weight
    rank: int
    seed: int = 0
    erasers: dict[str, Bottleneck] = field(init=False)
    given: dict[str, Tensor] = field(default_factory=dict, init=False)  # what each eraser added (b, .., d) when it last computed
    _switch: Switch = field(default_factory=Switch, init=False)

    def __post_init__(self) -> None:
        rng, device = torch.Generator().manual_seed(self.seed), self.model.device
        self.erasers = {}
        for name, module in self.maps.items():
            d = len(module.get_parameter("weight"))
            parts = uniform((self.rank, d), d, rng), uniform((self.rank,), d, rng), torch.zeros(d, self.rank), torch.zeros(d)
            self.erasers[name] = Bottleneck(*(part.to(device).requires_grad_() for part in parts))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {f"{name}.{part}": tensor for name, eraser in self.erasers.items() for part, tensor in vars(eraser).items()}

    @contextmanager
    def on(self) -> Iterator[None]:
        with frozen([self.model.modules("denoiser")]), outputs_changed(self.maps, self._changed):
            yield

    def _changed(self, name: str, h: Tensor) -> Tensor:
        if self._switch.is_off:
            return h
        self.given[name] = self.erasers[name](h)
        return (h + self.given[name]).to(h.dtype)

    def off(self) -> AbstractContextManager[None]:
        return self._switch.off(self.model)

    def edit(self, figures: Mapping[str, float]) -> AdapterEdit:
        erasers = {name: Bottleneck(*(part.detach().clone() for part in vars(eraser).values())) for name, eraser in self.erasers.items()}
        return AdapterEdit(erasers, solve_figures=figures)
