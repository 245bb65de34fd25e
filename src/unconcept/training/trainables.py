"""What a method trains, and how it is switched on and off: weights of the model itself, or low-rank adapters beside them.

Off, the model is bitwise the one before the training, so it is its own teacher: no second copy of a network is ever made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, require
from ..edits import AdapterEdit, Bottleneck, DenseEdit, Edit, LowRankEdit
from ..edits.weight_edits import live_parameters
from ..models import ModelView
from ..models.hooks.forward import outputs_changed
from ..models.hooks.low_rank import low_rank_added
from ..models.hooks.parameters import exchanged, frozen
from .session import current

WIDE = (torch.float32, torch.float64)


class Trained(Protocol):
    """Leaves to train, by full name, and the two states of the model."""

    model: ModelView

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    def on(self) -> AbstractContextManager[None]:
        """Inside, the model computes with what is trained, and gradients reach that alone."""

    def off(self) -> AbstractContextManager[None]:
        """Inside `on`, for a while: the model as it was before, the teacher."""

    def edit(self, figures: Mapping[str, float]) -> Edit:
        """What has come out so far."""


@dataclass
class Switch:
    """Of what hangs on the model while it is on: off for a while, in which the teacher is asked, and then what it was."""

    is_off: bool = False

    @contextmanager
    def off(self, model: ModelView) -> Iterator[None]:
        before, self.is_off = self.is_off, True
        try:
            with current().teacher(model):
                yield
        finally:
            self.is_off = before


@dataclass
class Weights:
    """Full fine-tuning of named parameters of any part. The trained ones stand beside the model's own, which are never written to."""

    model: ModelView
    names: tuple[str, ...]
    start: dict[str, Tensor] = field(init=False)  # the model's own parameters, as it now computes with them
    now: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        require(bool(self.names), "nothing is selected for training: choose other parameters", SettingsError)
        self.start = live_parameters(self.model, self.names)
        narrow = next((t.dtype for t in self.start.values() if t.dtype not in WIDE), None)
        require(
            narrow is None,
            f"training weights in {narrow} loses small steps: open the model with --dtype float32; trainings may compute in less by --mixed-precision",
            SettingsError,
        )
        self.now = {name: nn.Parameter(t.detach().clone()) for name, t in self.start.items()}

    @property
    def tensors(self) -> Mapping[str, nn.Parameter]:
        return self.now

    @contextmanager
    def on(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(frozen(self._parts()))
            stack.enter_context(exchanged(self._owners(), self.now, self.model.saved))
            yield

    @contextmanager
    def off(self) -> Iterator[None]:
        own = {name: t for name, t in self.start.items() if isinstance(t, nn.Parameter)}
        with exchanged(self._owners(), own, self.model.saved), current().teacher(self.model):
            yield

    def edit(self, figures: Mapping[str, float]) -> DenseEdit:
        return DenseEdit({name: (t - self.start[name]).detach() for name, t in self.now.items()}, solve_figures=figures)

    def _owners(self) -> dict[str, nn.Module]:
        return owners(self.model, self.names)

    def _parts(self) -> list[nn.Module]:
        parts = dict.fromkeys(name.partition(".")[0] for name in self.names)
        return [self.model.modules("denoiser"), *(self.model.modules(part) for part in parts)]


@dataclass
class LowRank:
    """Adapters on linear maps and convolutions, W + scale up @ down: down (r, d) random, up (o, r) zero at first.

    A convolution's weight is read as a matrix (o, i * h * w).
    """

    model: ModelView
    maps: Mapping[str, nn.Module]  # by the full name of their weight
    rank: int
    seed: int = 0
    init: Literal["normal", "uniform"] = "normal"  # of down: of variance 1 / r^2, or within 1 / sqrt(d), as kohya's trainers do
    scale: float = 1.0  # alpha / r; it enters the edit
    pairs: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    _switch: Switch = field(default_factory=Switch, init=False)

    def __post_init__(self) -> None:
        rng, device = torch.Generator().manual_seed(self.seed), self.model.device
        self.pairs = {}
        for name, module in self.maps.items():
            o, d = module.get_parameter("weight").flatten(1).shape
            down = torch.randn(self.rank, d, generator=rng) / self.rank if self.init == "normal" else uniform((self.rank, d), d, rng)
            self.pairs[name] = (torch.zeros(o, self.rank, device=device).requires_grad_(), down.to(device).requires_grad_())

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {f"{name}.{side}": t for name, pair in self.pairs.items() for side, t in zip(("up", "down"), pair, strict=True)}

    @contextmanager
    def on(self) -> Iterator[None]:
        with frozen([self.model.modules("denoiser")]), low_rank_added(self._live(), lambda: 0.0 if self._switch.is_off else self.scale):
            yield

    def off(self) -> AbstractContextManager[None]:
        return self._switch.off(self.model)

    def edit(self, figures: Mapping[str, float]) -> LowRankEdit:
        pairs = {name: (self.scale * up.detach(), down.detach().clone()) for name, (up, down) in self.pairs.items()}
        return LowRankEdit(pairs, solve_figures=figures)

    def _live(self) -> Sequence[tuple[nn.Module, Tensor, Tensor]]:
        return [(self.maps[name], up, down) for name, (up, down) in self.pairs.items()]


def uniform(shape: tuple[int, ...], d: int, rng: torch.Generator) -> Tensor:
    """Within 1 / sqrt(d), as linear maps of d inputs begin in torch."""
    return (2 * torch.rand(shape, generator=rng) - 1) / d**0.5


def owners(model: ModelView, names: Iterable[str]) -> dict[str, nn.Module]:
    """The module that holds each named parameter."""
    found = {}
    for name in names:
        part, _, rest = name.partition(".")
        found[name] = model.modules(part).get_submodule(rest.rpartition(".")[0])
    return found


@contextmanager
def pristine(model: ModelView) -> Iterator[None]:
    """Inside, the model computes with its own weights, without the edits now applied: the teacher of a training on an edited model.

    Parameters are exchanged, not written to: a student's graph may hold those of the edited model.
    """
    own = {name: nn.Parameter(weight, requires_grad=False) for name, weight in model.saved.items()}
    with exchanged(owners(model, own), own, dict(model.saved)):
        yield


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
