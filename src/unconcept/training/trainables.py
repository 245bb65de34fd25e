"""The parameters that a method trains: weights of the model itself, low-rank adapters, or erasers.

They can be switched off. The model is then bitwise the one before the training and serves as its own teacher, so no
second copy of a network is ever made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, require
from ..edits import AdapterEdit, BottleneckAdapter, DenseEdit, Edit, LowRankEdit, ResidualGate, ResidualGateEdit
from ..edits.weights import live_parameters
from ..models import ModelView
from ..models.hooks.forward import change_outputs
from ..models.hooks.low_rank import lora_hooks
from ..models.hooks.parameters import freeze_parameters, with_parameters
from ..models.module_view import AnyModel
from .session import current_session

_TRAINABLE_DTYPES = (torch.float32, torch.float64)


class Trainable(Protocol):
    """Tensors to train, by full name, and the model's two states: student and teacher."""

    @property
    def model(self) -> AnyModel: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    def student(self) -> AbstractContextManager[None]:
        """Compute with the trained tensors inside the block; gradients reach only them."""

    def teacher(self) -> AbstractContextManager[None]:
        """Compute inside the block with the model from before the training; nest it in `student`."""

    def edit(self, figures: Mapping[str, float]) -> Edit:
        """Return the result so far as an edit."""


@dataclass
class TeacherSwitch:
    """Switches adapters off while the teacher is used, and then back to their previous state."""

    is_off: bool = False

    @contextmanager
    def teacher(self, model: AnyModel) -> Iterator[None]:
        before, self.is_off = self.is_off, True
        try:
            with current_session().teacher(model):
                yield
        finally:
            self.is_off = before


@dataclass
class TrainableWeights:
    """Full fine-tuning of named parameters of any part.

    It trains copies; the model's own parameters are never written to.
    """

    model: AnyModel
    names: tuple[str, ...]
    start: dict[str, Tensor] = field(init=False)  # the parameters that the model now computes with
    student_parameters: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        require(bool(self.names), "nothing is selected for training: choose other parameters", SettingsError)
        self.start = live_parameters(self.model, self.names)
        narrow = next((t.dtype for t in self.start.values() if t.dtype not in _TRAINABLE_DTYPES), None)
        require(
            narrow is None,
            f"training weights in {narrow} would lose small steps: open the model with --dtype auto or --dtype float32;"
            " to compute in lower precision use --mixed-precision",
            SettingsError,
        )
        self.student_parameters = {name: nn.Parameter(t.detach().clone()) for name, t in self.start.items()}

    @property
    def tensors(self) -> Mapping[str, nn.Parameter]:
        return self.student_parameters

    @contextmanager
    def student(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(freeze_parameters(self._parts()))
            stack.enter_context(with_parameters(self._owners(), self.student_parameters, self.model.original_weights))
            yield

    @contextmanager
    def teacher(self) -> Iterator[None]:
        own = {name: t for name, t in self.start.items() if isinstance(t, nn.Parameter)}
        with with_parameters(self._owners(), own, self.model.original_weights), current_session().teacher(self.model):
            yield

    def edit(self, figures: Mapping[str, float]) -> DenseEdit:
        return DenseEdit(
            {name: (t - self.start[name]).detach() for name, t in self.student_parameters.items()},
            solve_figures=figures,
        )

    def _owners(self) -> dict[str, nn.Module]:
        return parameter_owners(self.model, self.names)

    def _parts(self) -> list[nn.Module]:
        parts = dict.fromkeys(name.partition(".")[0] for name in self.names)
        return [self.model.modules("denoiser"), *(self.model.modules(part) for part in parts)]


@dataclass
class TrainableLowRank:
    """Low-rank adapters on maps and convolutions, W + scale up @ down: down (r, d) starts random, up (o, r) at zero.

    A convolution's weight counts as a matrix (o, i * h * w).
    """

    model: AnyModel
    maps: Mapping[str, nn.Module]  # by the full name of their weight
    rank: int
    seed: int = 0
    init: Literal["normal", "uniform"] = "normal"
    """Initial values of down: normal with variance 1 / r^2, or uniform within 1 / sqrt(d) as in kohya's trainers."""
    scale: float = 1.0  # alpha / r; the edit includes it
    pairs: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    _switch: TeacherSwitch = field(default_factory=TeacherSwitch, init=False)

    def __post_init__(self) -> None:
        rng, device = torch.Generator().manual_seed(self.seed), self.model.device
        self.pairs = {}
        for name, module in self.maps.items():
            o, d = module.get_parameter("weight").flatten(1).shape
            down = (
                torch.randn(self.rank, d, generator=rng) / self.rank
                if self.init == "normal"
                else uniform_init((self.rank, d), d, rng)
            )
            self.pairs[name] = (
                torch.zeros(o, self.rank, device=device).requires_grad_(),
                down.to(device).requires_grad_(),
            )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return _pair_tensors(self.pairs)

    @contextmanager
    def student(self) -> Iterator[None]:
        with (
            freeze_parameters([self.model.modules("denoiser")]),
            lora_hooks(self._live(), lambda: 0.0 if self._switch.is_off else self.scale),
        ):
            yield

    def teacher(self) -> AbstractContextManager[None]:
        return self._switch.teacher(self.model)

    def edit(self, figures: Mapping[str, float]) -> LowRankEdit:
        pairs = {name: (self.scale * up.detach(), down.detach().clone()) for name, (up, down) in self.pairs.items()}
        return LowRankEdit(pairs, solve_figures=figures)

    def _live(self) -> Sequence[tuple[nn.Module, Tensor, Tensor]]:
        return [(self.maps[name], up, down) for name, (up, down) in self.pairs.items()]


def _pair_tensors(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{side}": t for name, pair in pairs.items() for side, t in zip(("up", "down"), pair, strict=True)}


def uniform_init(shape: tuple[int, ...], d: int, rng: torch.Generator) -> Tensor:
    """Draw uniform values within 1 / sqrt(d), torch's initial values of a linear map with d inputs."""
    uniform: Tensor = (2 * torch.rand(shape, generator=rng) - 1) / d**0.5
    return uniform


def parameter_owners(model: AnyModel, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the module that holds each named parameter."""
    found = {}
    for name in names:
        part, _, rest = name.partition(".")
        found[name] = model.modules(part).get_submodule(rest.rpartition(".")[0])
    return found


@contextmanager
def with_pristine_weights(model: AnyModel) -> Iterator[None]:
    """Compute inside the block without the edits now applied: the teacher of a training on an edited model.

    It exchanges parameters and does not write to them, because a student's graph may hold those of the edited model.
    """
    own = {name: nn.Parameter(weight, requires_grad=False) for name, weight in model.original_weights.items()}
    with with_parameters(parameter_owners(model, own), own, dict(model.original_weights)):
        yield


@dataclass
class TrainableErasers:
    """Bottleneck erasers on the output h of each map, h + A(h).

    A's `down` starts as torch's linear maps do, its `up` at zero.
    """

    model: ModelView
    maps: Mapping[str, nn.Module]  # by the full name of their weight
    rank: int
    seed: int = 0
    erasers: dict[str, BottleneckAdapter] = field(init=False)
    given: dict[str, Tensor] = field(default_factory=dict, init=False)
    """The last output (b, .., d) of each eraser."""
    _switch: TeacherSwitch = field(default_factory=TeacherSwitch, init=False)

    def __post_init__(self) -> None:
        rng, device = torch.Generator().manual_seed(self.seed), self.model.device
        self.erasers = {}
        for name, module in self.maps.items():
            d = len(module.get_parameter("weight"))
            parts = (
                uniform_init((self.rank, d), d, rng),
                uniform_init((self.rank,), d, rng),
                torch.zeros(d, self.rank),
                torch.zeros(d),
            )
            self.erasers[name] = BottleneckAdapter(*(part.to(device).requires_grad_() for part in parts))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {
            f"{name}.{part}": tensor for name, eraser in self.erasers.items() for part, tensor in vars(eraser).items()
        }

    @contextmanager
    def student(self) -> Iterator[None]:
        with freeze_parameters([self.model.modules("denoiser")]), change_outputs(self.maps, self._changed):
            yield

    def _changed(self, name: str, h: Tensor) -> Tensor:
        if self._switch.is_off:
            return h
        self.given[name] = self.erasers[name](h)
        return (h + self.given[name]).to(h.dtype)

    def teacher(self) -> AbstractContextManager[None]:
        return self._switch.teacher(self.model)

    def edit(self, figures: Mapping[str, float]) -> AdapterEdit:
        erasers = {}
        for name, eraser in self.erasers.items():
            erasers[name] = BottleneckAdapter(*(part.detach().clone() for part in vars(eraser).values()))
        return AdapterEdit(erasers, solve_figures=figures)


@dataclass
class TrainableGate:
    """A residual gate over texts, at first half open and adding nothing. A loss asks `gate`; no module is changed."""

    model: ModelView
    texts: tuple[str, ...]
    maps: Mapping[str, tuple[int, int]]  # (o, d) by the full name of their weight
    width: int  # of the gate's queries and keys
    rank: int
    seed: int = 0
    scale: float = 1.0  # alpha / r; the edit includes it
    keyless: bool = False  # the keys are the queries
    gate: ResidualGate = field(init=False)

    def __post_init__(self) -> None:
        rng, d = torch.Generator().manual_seed(self.seed), next(iter(self.maps.values()))[1]
        device, k = self.model.device, self.width
        query, key = ((uniform_init((d, k), d * k, rng) / d**2).to(device).requires_grad_() for _ in range(2))
        pairs = {}
        for name, (o, _) in self.maps.items():
            down = uniform_init((self.rank, d), d * self.rank, rng).to(device).requires_grad_()
            pairs[name] = torch.zeros(o, self.rank, device=device).requires_grad_(), down
        score = torch.zeros(d, device=device).requires_grad_()
        self.gate = ResidualGate(self.texts, query, query if self.keyless else key, score, pairs)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        parts = ("query", "score") if self.keyless else ("query", "key", "score")
        return {f"gate.{part}": getattr(self.gate, part) for part in parts} | _pair_tensors(self.gate.pairs)

    def student(self) -> AbstractContextManager[None]:
        return freeze_parameters([self.model.modules("denoiser")])

    def teacher(self) -> AbstractContextManager[None]:
        return current_session().teacher(self.model)

    def edit(self, figures: Mapping[str, float]) -> ResidualGateEdit:
        query, key, score = (t.detach().clone() for t in (self.gate.query, self.gate.key, self.gate.score))
        pairs = {
            name: (self.scale * up.detach(), down.detach().clone()) for name, (up, down) in self.gate.pairs.items()
        }
        return ResidualGateEdit((ResidualGate(self.texts, query, key, score, pairs),), solve_figures=figures)
