"""A whole training of a method in the open session: told of, kept, gone on with, and stopped where it runs away."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NumericsError, UnconceptError, require
from ..core.hashing import hash_json, hash_tensors
from . import kept
from .loop import BETAS, EPS, Descent, Loss, Optimizer
from .penalties import Join, Transform
from .session import Progress, Session, current
from .trained import Trained

FIRST, COLLAPSE = 20, 100.0  # so many losses whose mean is this many times the largest of the first ones are no training any more


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
    rules = [*here.rules(tensors), *plan.transforms]
    more: dict[str, Any] = {"transforms": rules, "join": plan.join, "rate": plan.rate, "betas": plan.betas, "eps": plan.eps}
    descent = Descent(list(tensors.values()), plan.lr, plan.optimizer, plan.weight_decay, plan.seed, **more)
    path = None if here.folder is None else here.folder / f"{name}.safetensors"
    identity = "" if path is None else _identity(tensors, plan, {**about, "rules": here.about})
    with trained.on(), _recomputed(trained, here.checkpointing):
        if path is not None and (found := kept.read(path, identity)) is not None:
            descent.restore(kept.below(found, "descent."))
            kept.handed_back(stateful, kept.below(found, "stateful."))
        watch = _Watch(here, name, plan.steps, descent, path, identity, stateful)
        try:
            descent.run(loss, plan.steps - descent.done, watch.after)
        except NumericsError as error:
            raise NumericsError(f"{name}, step {descent.done} of {plan.steps}: {error}{watch.kept_at()}") from None
        except torch.OutOfMemoryError:
            hint = "lower batch_size or pool, train fewer parameters, or switch checkpointing on"
            raise UnconceptError(f"{name}, step {descent.done} of {plan.steps}: out of memory: {hint}{watch.kept_at()}") from None
        watch.keep()
    return descent.losses


def figures(losses: Sequence[float]) -> dict[str, float]:
    """What there is to say of a training: how many steps, and the mean loss of the first and of the last of them."""
    ends = {"first_loss": losses[:FIRST], "last_loss": losses[-FIRST:]}
    return {"steps": float(len(losses))} | {name: sum(part) / len(part) for name, part in ends.items() if part}


def _identity(tensors: Mapping[str, Tensor], plan: Plan, about: Mapping[str, object]) -> str:
    """What a training is: where it starts, what it follows and how."""
    numbers: dict[str, Any] = {"steps": plan.steps, "lr": plan.lr, "optimizer": plan.optimizer, "weight_decay": plan.weight_decay, "seed": plan.seed}
    numbers |= {"betas": plan.betas, "eps": plan.eps}
    return hash_json({**numbers, "start": hash_tensors(tensors), "about": about})


@dataclass
class _Watch:
    """After each step: tells, keeps the state when it is time, and stops a loss that runs away."""

    here: Session
    name: str
    steps: int
    descent: Descent
    path: Path | None
    identity: str
    stateful: Sequence[kept.Stateful]

    def __post_init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.first = self.descent.done
        self.kept = self.descent.done  # steps of the state on disk

    def after(self, done: int) -> None:
        losses = self.descent.losses
        recent = sum(losses[-FIRST:]) / len(losses[-FIRST:])
        largest = max(map(abs, losses[:FIRST]))
        if len(losses) > FIRST and 0 < COLLAPSE * largest < abs(recent):
            raise NumericsError(f"the loss ran away, from at most {largest:.3g} at first to {recent:.3g}: use a smaller lr")
        now = time.monotonic()
        left = (now - self.begun) / (done - self.first) * (self.steps - done)
        self.here.tell(Progress(self.name, done, self.steps, recent, left))
        if now - self.last >= self.here.seconds:
            self.keep()

    def keep(self) -> None:
        """Nothing that holds what is no number is kept: the state on disk is the last good one."""
        state = self.descent.state()
        finite = all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())
        if self.path is not None and finite:
            own = {f"stateful.{name}": t for name, t in kept.gathered(self.stateful).items()}
            kept.write(self.path, {f"descent.{name}": t for name, t in state.items()} | own, self.identity)
            self.kept = self.descent.done
        self.last = time.monotonic()

    def kept_at(self) -> str:
        return f"; the state after {self.kept} steps is kept in {self.path}" if self.path is not None and self.path.exists() else ""


@contextmanager
def _recomputed(trained: Trained, asked: bool) -> Iterator[None]:
    """Inside, the denoiser's activations are computed again on the way back, if that is asked for."""
    net: Any = trained.model.modules("denoiser")
    if asked:
        net.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if asked:
            net.disable_gradient_checkpointing()
