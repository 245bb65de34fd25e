"""Runs a method's training in the open session: reports progress, saves and resumes state, stops on divergence.

It saves a state every `TrainingSession.seconds`. A training that stops earlier on NaN or infinity saves the state of
its last good step, whose tensors are still unchanged. Divergence is noticed later, when the tensors have already moved:
then only the last saved state is left.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from ..core.errors import NumericsError, UnconceptError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.source import source_hash
from ..models.checkpoint.fingerprint import TEXT_ENCODER_PARTS
from ..models.hooks.modules import denoiser_parameters
from ..models.module_view import AnyModel, ModuleView
from ..models.text.offload import offload_idle_encoders
from . import state_file as kept
from .distributed import ProcessGroup, rank_seed_offset
from .gradient_transforms import GradientJoin, GradientTransform
from .loop import ADAM_BETAS, ADAM_EPS, Descent, LossTerms, Optimizer, StepLoss, loss_gradient
from .precision import Precision
from .sample_options import SampleOptions
from .session import TrainingProgress, TrainingSession, TrainingStart, current_session
from .trainables import Trainable

# A training diverges if the mean of so many losses is this many times the largest of as many first ones.
_FIRST_LOSSES, _DIVERGENCE_FACTOR = 20, 100.0
_MOST_COPIED_BYTES = 2**24  # copy the loss's own state before each step only up to this size
_FINGERPRINT_NUMBERS = 64  # numbers of each parameter in a model's fingerprint


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of the descent: steps, optimizer, and transforms of gradients."""

    steps: int
    lr: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    transforms: Sequence[GradientTransform] = ()
    join: GradientJoin | None = None
    rate: Callable[[int], float] = lambda step: 1.0  # factor of the lr, by step
    betas: tuple[float, float] = ADAM_BETAS  # of adam and adamw
    eps: float = ADAM_EPS

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"the number of steps must be >= 0, got {self.steps}")


def train(
    trained: Trainable,
    loss: StepLoss,
    plan: TrainingPlan,
    about: Mapping[str, object],
    stateful: Sequence[kept.TrainingState] = (),
    name: str = "training",
) -> list[float]:
    """Minimise the loss to the end of the plan, inside `trained.student()`, and return the loss before each step.

    `about` is plain data that the loss depends on: settings, request, hashes of data. Raises `DataError` if a saved
    state belongs to another training. `stateful` are the objects that the loss changes besides the tensors. `name`
    distinguishes the trainings of one method.
    """
    here, tensors = current_session(), trained.tensors
    processes = ProcessGroup(trained.model.device, is_distributed=True)
    precision = Precision(processes.device, here.options.mixed_precision)
    seed = plan.seed + rank_seed_offset(processes.device)
    samples = SampleOptions(here.options, trained.model, plan.steps, seed)
    path = None if here.folder is None else here.folder / f"{name}.safetensors"
    how = {"rules": here.about, "options": asdict(here.options), "processes": processes.world_size}
    told = "" if path is None else _identity(tensors, plan, {**about, **how, "base": base_fingerprint(trained.model)})
    identity = processes.broadcast_parameters(list(tensors.values()), told)
    recomputed = precision.recompute_activations(trained.model.modules("denoiser"), here.options.checkpointing)
    with trained.student(), recomputed, samples.mask_gradients():
        start = TrainingStart(trained.model, tensors, lambda draws: _summed(tensors, loss, plan, stateful, draws))
        transforms = [samples, *here.transforms(start), *plan.transforms]
        descent = _descent(tensors, plan, transforms, precision, processes)
        source = "" if path is None else source_hash(loss.__module__, __name__, type(trained.model).__module__)
        if path is not None and (found := kept.read_state_file(path, identity, source)) is not None:
            own = processes.own_state(found)
            descent.restore(kept.entries_below(own, "descent."))
            kept.restore_states(stateful, kept.entries_below(own, "stateful."))
        watch = _Watch(here, name, plan.steps, descent, path, identity, source, stateful)
        with watch.failures_named(), _encoders_offloaded(trained.model, tensors):
            descent.run(_watched(loss, samples, precision, processes), plan.steps - descent.done, watch.after)
        watch.keep()
    return descent.losses


def _descent(
    tensors: Mapping[str, Tensor],
    plan: TrainingPlan,
    transforms: Sequence[GradientTransform],
    precision: Precision,
    processes: ProcessGroup,
) -> Descent:
    """Build the descent of a plan, before the first step."""
    return Descent(
        list(tensors.values()),
        plan.lr,
        plan.optimizer,
        plan.weight_decay,
        plan.seed + rank_seed_offset(processes.device),
        transforms=transforms,
        join=plan.join,
        rate=plan.rate,
        betas=plan.betas,
        eps=plan.eps,
        precision=precision,
        processes=processes,
    )


def _watched(loss: StepLoss, samples: SampleOptions, precision: Precision, processes: ProcessGroup) -> StepLoss:
    """Wrap the loss with the session's sample options and precision."""

    def found(step: int, rng: torch.Generator) -> LossTerms:
        with samples.during_step(), precision.autocast():
            terms = loss(step, rng)
        samples.observe_loss(step, terms)
        if samples.options.dom:
            samples.is_learned = processes.all_true(samples.is_learned)
        return terms

    return found


def loss_figures(losses: Sequence[float]) -> dict[str, float]:
    """Return figures of a training: the number of steps, and the mean loss of the first and of the last steps."""
    ends = {"first_loss": losses[:_FIRST_LOSSES], "last_loss": losses[-_FIRST_LOSSES:]}
    return {"steps": float(len(losses))} | {name: sum(part) / len(part) for name, part in ends.items() if part}


def _summed(
    tensors: Mapping[str, Tensor],
    loss: StepLoss,
    plan: TrainingPlan,
    stateful: Sequence[kept.TrainingState],
    draws: int,
) -> list[Tensor]:
    """Sum gradients of the loss before the training, over steps spread along the plan; leave no trace in its state."""
    before = {name: t.detach().clone() for name, t in kept.gather_states(stateful).items()}
    rng, params = torch.Generator().manual_seed(plan.seed), list(tensors.values())
    total = [torch.zeros_like(param) for param in params]
    draws = min(draws, plan.steps)
    for i in range(draws):
        terms = loss(i * plan.steps // draws, rng)
        value = terms if isinstance(terms, Tensor) else torch.stack(list(terms.values())).sum()
        for part, found in zip(total, loss_gradient(value, params), strict=True):
            part += found
    kept.restore_states(stateful, before)
    return total


def _identity(tensors: Mapping[str, Tensor], plan: TrainingPlan, about: Mapping[str, object]) -> str:
    """Hash what identifies a training: its start, its loss and its plan."""
    numbers: dict[str, Any] = {
        "steps": plan.steps,
        "lr": plan.lr,
        "optimizer": plan.optimizer,
        "weight_decay": plan.weight_decay,
        "seed": plan.seed,
    }
    numbers |= {"betas": plan.betas, "eps": plan.eps}
    return hash_json({**numbers, "start": hash_tensors(tensors), "about": about})


def base_fingerprint(model: AnyModel) -> str:
    """Hash some numbers of each of the model's parameters, and a diffusion model's noise levels and prediction type.

    The trained tensors would not be enough: adapters begin alike on every model.
    """
    if isinstance(model, ModuleView):
        return hash_tensors(_sampled(model.parameters()))
    parts = [part for part in (*TEXT_ENCODER_PARTS, "vae") if model.checkpoint.has(part)]
    every = denoiser_parameters(model) | {
        f"{part}.{name}": p for part in parts for name, p in model.modules(part).named_parameters()
    }
    found = _sampled(every) | {"alpha": model.schedule.alpha}
    return hash_json([hash_tensors(found), model.schedule.prediction_type])


def _sampled(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: p.detach().flatten()[:: max(1, p.numel() // _FINGERPRINT_NUMBERS)] for n, p in parameters.items()}


@dataclass
class _Watch:
    """After each step, reports progress, saves the state if it is time, and stops a diverging training."""

    here: TrainingSession
    name: str
    steps: int
    descent: Descent
    path: Path | None
    identity: str
    source: str
    stateful: Sequence[kept.TrainingState]

    def __post_init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.first = self.descent.done
        self.kept = self.descent.done  # steps of the state on disk
        self._remember()

    @contextmanager
    def failures_named(self) -> Iterator[None]:
        """Add to an error which training failed, at which step, and where its state is saved."""
        try:
            yield
        except NumericsError as error:
            self.keep_last()
            raise NumericsError(f"{self._step()}: {error}{self.kept_at()}") from None
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            hint = "lower batch_size or pool, train fewer parameters, or switch checkpointing or mixed precision on"
            raise UnconceptError(f"{self._step()}: out of memory: {hint}{self.kept_at()}") from None

    def _step(self) -> str:
        return f"{self.name}, step {self.descent.done} of {self.steps}"

    def after(self, done: int) -> None:
        losses = self.descent.losses
        recent = sum(losses[-_FIRST_LOSSES:]) / len(losses[-_FIRST_LOSSES:])
        largest = max(map(abs, losses[:_FIRST_LOSSES]))
        if len(losses) > _FIRST_LOSSES and 0 < _DIVERGENCE_FACTOR * largest < abs(recent):
            raise NumericsError(
                f"the loss diverged, from at most {largest:.3g} at first to {recent:.3g}: use a smaller lr"
            )
        now = time.monotonic()
        left = (now - self.begun) / (done - self.first) * (self.steps - done)
        self.here.on_progress(TrainingProgress(self.name, done, self.steps, recent, left))
        if self.path is not None and self.descent.processes.broadcast_bool(now - self.last >= self.here.seconds):
            self.keep()
        self._remember()

    def _remember(self) -> None:
        """Copy the state that the next loss will change, in case it is not finite; needed until a state is on disk."""
        self.before: dict[str, Tensor] = {}
        self.at = self.descent.done  # steps
        if self.path is None or self.path.exists() or self.descent.processes.world_size > 1:
            return
        found = {f"stateful.{name}": t for name, t in kept.gather_states(self.stateful).items()} | {
            "descent.rng": self.descent.rng.get_state()
        }
        # The samples.
        found |= {f"descent.transform.{name}": t for name, t in kept.gather_states(self.descent.transforms[:1]).items()}
        if sum(t.nbytes for t in found.values()) <= _MOST_COPIED_BYTES:
            self.before = {name: t.detach().clone() for name, t in found.items()}

    def keep_last(self) -> None:
        """After a non-finite loss, save the state of the step before it, if none was saved yet."""
        if self.before and self.at == self.descent.done > 0:
            self.keep(self.before)

    def keep(self, instead: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Save the state unless it holds NaN or infinity, so that the state on disk is the last good one."""
        state = self.descent.state()
        finite = all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())
        if self.path is not None and finite:
            own = {f"stateful.{name}": t for name, t in kept.gather_states(self.stateful).items()}
            every = self.descent.processes.gather_state(
                {f"descent.{name}": t for name, t in state.items()} | own
            ) | dict(instead)
            if self.descent.processes.rank == 0:
                kept.write_state_file(self.path, every, self.identity, self.source)
            self.kept = self.descent.done
        self.last = time.monotonic()

    def kept_at(self) -> str:
        there = self.path is not None and self.path.exists()
        return (
            f"; the state after {self.kept} steps is saved in {self.path}: delete it to begin anew with other settings"
            if there
            else ""
        )


@contextmanager
def _encoders_offloaded(model: AnyModel, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Offload the text encoders of which nothing is trained."""
    parts = {name.partition(".")[0] for name in tensors}
    idle = [part for part in TEXT_ENCODER_PARTS if part not in parts]
    with nullcontext() if isinstance(model, ModuleView) else offload_idle_encoders(model, idle):
        yield
