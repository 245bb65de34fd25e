"""A whole training of a method in the open session: told of, kept, gone on with, and stopped where it runs away.

A state is kept every `Session.seconds`. A training that stops before, on what is no number, leaves that of its last good step: its tensors
were not touched since. One that runs away is noticed when they have moved on: without a copy of them all, nothing is left but what was kept.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import NumericsError, UnconceptError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.source import source_hash
from ..models import ModelView
from ..models.checkpoint.fingerprint import ENCODERS
from ..models.hooks.modules import denoiser_parameters
from ..models.text.offload import resting
from . import state_file as kept
from .gradient_transforms import Join, Transform
from .loop import BETAS, EPS, Descent, Loss, Optimizer, Terms, gradient
from .precision import Mover, apart
from .sample_options import Samples
from .session import Progress, Session, Start, current
from .trainables import Trained

FIRST, COLLAPSE = 20, 100.0  # so many losses whose mean is this many times the largest of the first ones are no training any more
SMALL = 2**24  # bytes of what a loss changes besides the tensors; of more no copy is held
MARKS = 64  # numbers of each parameter that tell a model from another


@dataclass(frozen=True)
class Plan:
    """How the trained tensors go down their loss."""

    steps: int
    lr: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    transforms: Sequence[Transform] = ()
    join: Join | None = None
    rate: Callable[[int], float] = lambda step: 1.0  # of the lr, by step
    betas: tuple[float, float] = BETAS  # of adam and adamw
    eps: float = EPS

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"the number of steps must be >= 0, got {self.steps}")


def train(trained: Trained, loss: Loss, plan: Plan, about: Mapping[str, object], stateful: Sequence[kept.Stateful] = (), name: str = "training") -> list[float]:
    """Follow the loss to the end of the plan, inside `trained.on()`; the loss before each step.

    `about` is plain data that the loss depends on: settings, request, hashes of data. A kept state of another training is refused.
    `stateful` is what the loss changes besides the tensors. `name` tells the trainings of one method apart.
    """
    here, tensors = current(), trained.tensors
    mover = Mover(trained.model.device, here.options.mixed_precision, shares=True)
    samples = Samples(here.options, trained.model, plan.steps, plan.seed + apart(mover.device))
    path = None if here.folder is None else here.folder / f"{name}.safetensors"
    how = {"rules": here.about, "options": asdict(here.options), "processes": mover.count}
    told = "" if path is None else _identity(tensors, plan, {**about, **how, "base": base_of(trained.model)})
    identity = mover.agree(list(tensors.values()), told)
    with trained.on(), _recomputed(trained, here.options.checkpointing, mover), samples.on():
        rules = here.rules(Start(trained.model, tensors, lambda draws: _summed(tensors, loss, plan, stateful, draws)))
        more: dict[str, Any] = {"join": plan.join, "rate": plan.rate, "betas": plan.betas, "eps": plan.eps, "mover": mover}
        more["transforms"] = [samples, *rules, *plan.transforms]
        descent = Descent(list(tensors.values()), plan.lr, plan.optimizer, plan.weight_decay, plan.seed + apart(mover.device), **more)
        source = source_hash(loss.__module__, __name__, type(trained.model).__module__)
        if path is not None and (found := kept.read(path, identity, source)) is not None:
            own = mover.own(found)
            descent.restore(kept.below(own, "descent."))
            kept.handed_back(stateful, kept.below(own, "stateful."))
        watch = _Watch(here, name, plan.steps, descent, path, identity, source, stateful)
        try:
            with resting(trained.model, _untrained(tensors)):
                descent.run(_watched(loss, samples, mover), plan.steps - descent.done, watch.after)
        except NumericsError as error:
            watch.keep_last()
            raise NumericsError(f"{name}, step {descent.done} of {plan.steps}: {error}{watch.kept_at()}") from None
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            hint = "lower batch_size or pool, train fewer parameters, or switch checkpointing or mixed precision on"
            raise UnconceptError(f"{name}, step {descent.done} of {plan.steps}: out of memory: {hint}{watch.kept_at()}") from None
        watch.keep()
    return descent.losses


def _watched(loss: Loss, samples: Samples, mover: Mover) -> Loss:
    """The same loss as the options have it."""

    def found(step: int, rng: torch.Generator) -> Terms:
        with samples.watching(), mover.computing():
            terms = loss(step, rng)
        samples.look(step, terms)
        if samples.options.dom:
            samples.is_learned = mover.everywhere(samples.is_learned)
        return terms

    return found


def figures(losses: Sequence[float]) -> dict[str, float]:
    """What there is to say of a training: how many steps, and the mean loss of the first and of the last of them."""
    ends = {"first_loss": losses[:FIRST], "last_loss": losses[-FIRST:]}
    return {"steps": float(len(losses))} | {name: sum(part) / len(part) for name, part in ends.items() if part}


def _summed(tensors: Mapping[str, Tensor], loss: Loss, plan: Plan, stateful: Sequence[kept.Stateful], draws: int) -> list[Tensor]:
    """Gradients of the loss as the training begins, over steps spread along the plan; nothing of the training knows of it afterwards."""
    before = {name: t.detach().clone() for name, t in kept.gathered(stateful).items()}
    rng, params = torch.Generator().manual_seed(plan.seed), list(tensors.values())
    total = [torch.zeros_like(param) for param in params]
    draws = min(draws, plan.steps)
    for i in range(draws):
        terms = loss(i * plan.steps // draws, rng)
        value = terms if isinstance(terms, Tensor) else torch.stack(list(terms.values())).sum()
        for part, found in zip(total, gradient(value, params), strict=True):
            part += found
    kept.handed_back(stateful, before)
    return total


def _identity(tensors: Mapping[str, Tensor], plan: Plan, about: Mapping[str, object]) -> str:
    """What a training is: where it starts, what it follows and how."""
    numbers: dict[str, Any] = {"steps": plan.steps, "lr": plan.lr, "optimizer": plan.optimizer, "weight_decay": plan.weight_decay, "seed": plan.seed}
    numbers |= {"betas": plan.betas, "eps": plan.eps}
    return hash_json({**numbers, "start": hash_tensors(tensors), "about": about})


def base_of(model: ModelView) -> str:
    """Tells models apart: by some numbers of each parameter, since adapters begin alike on every model; by its noise levels and what it predicts."""
    parts = [part for part in (*ENCODERS, "vae") if model.checkpoint.has(part)]
    every = denoiser_parameters(model) | {f"{part}.{name}": p for part in parts for name, p in model.modules(part).named_parameters()}
    found = {name: p.detach().flatten()[:: max(1, p.numel() // MARKS)] for name, p in every.items()}
    return hash_json([hash_tensors(found | {"alpha": model.schedule.alpha}), model.schedule.kind])


@dataclass
class _Watch:
    """After each step: tells, keeps the state when it is time, and stops a loss that runs away."""

    here: Session
    name: str
    steps: int
    descent: Descent
    path: Path | None
    identity: str
    source: str
    stateful: Sequence[kept.Stateful]

    def __post_init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.first = self.descent.done
        self.kept = self.descent.done  # steps of the state on disk
        self._remember()

    def after(self, done: int) -> None:
        losses = self.descent.losses
        recent = sum(losses[-FIRST:]) / len(losses[-FIRST:])
        largest = max(map(abs, losses[:FIRST]))
        if len(losses) > FIRST and 0 < COLLAPSE * largest < abs(recent):
            raise NumericsError(f"the loss ran away, from at most {largest:.3g} at first to {recent:.3g}: use a smaller lr")
        now = time.monotonic()
        left = (now - self.begun) / (done - self.first) * (self.steps - done)
        self.here.tell(Progress(self.name, done, self.steps, recent, left))
        if self.path is not None and self.descent.mover.led(now - self.last >= self.here.seconds):
            self.keep()
        self._remember()

    def _remember(self) -> None:
        """What the next loss changes before it is known to be a number, until there is a state on disk."""
        self.before: dict[str, Tensor] = {}
        self.at = self.descent.done  # steps
        if self.path is None or self.path.exists() or self.descent.mover.count > 1:
            return
        found = {f"stateful.{name}": t for name, t in kept.gathered(self.stateful).items()} | {"descent.rng": self.descent.rng.get_state()}
        found |= {f"descent.transform.{name}": t for name, t in kept.gathered(self.descent.transforms[:1]).items()}  # the samples
        if sum(t.nbytes for t in found.values()) <= SMALL:
            self.before = {name: t.detach().clone() for name, t in found.items()}

    def keep_last(self) -> None:
        """After a loss that is no number: the state of the step before it, if none was kept yet."""
        if self.before and self.at == self.descent.done > 0:
            self.keep(self.before)

    def keep(self, instead: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Nothing that holds what is no number is kept: the state on disk is the last good one."""
        state = self.descent.state()
        finite = all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())
        if self.path is not None and finite:
            own = {f"stateful.{name}": t for name, t in kept.gathered(self.stateful).items()}
            every = self.descent.mover.together({f"descent.{name}": t for name, t in state.items()} | own) | dict(instead)
            if self.descent.mover.rank == 0:
                kept.write(self.path, every, self.identity, self.source)
            self.kept = self.descent.done
        self.last = time.monotonic()

    def kept_at(self) -> str:
        there = self.path is not None and self.path.exists()
        return f"; the state after {self.kept} steps is kept in {self.path}: delete it to begin anew with other settings" if there else ""


def _untrained(tensors: Mapping[str, Tensor]) -> list[str]:
    """Text encoders of which nothing is trained."""
    parts = {name.partition(".")[0] for name in tensors}
    return [part for part in ENCODERS if part not in parts]


@contextmanager
def _recomputed(trained: Trained, asked: bool, mover: Mover) -> Iterator[None]:
    """Inside, the denoiser's activations are computed again on the way back, if that is asked for."""
    net: Any = trained.model.modules("denoiser")
    if asked:
        net.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=mover.again))
    try:
        yield
    finally:
        if asked:
            net.disable_gradient_checkpointing()
