"""The one training loop of this folder: AdamW and Muon, warm-up and cosine decay, clipping, EMA, resumable from its
own file.

Batches are drawn from a generator seeded by (seed, step, rank), so a resumed run sees what an unbroken one would have
seen. Under `torchrun` every process draws its own batch and gradients are averaged: on a CPU two processes of one
thread train faster than one process of two.
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from .checkpoint import Training, restore, save
from .muon import Muon, split
from .place import generator, rank

FLOOR = 0.02  # the last step's rate, as a share of the highest


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train: `steps`, or as many as fit into `budget` minutes; the rate falls with either.

    `minutes` stops earlier, after saving; the next call goes on.
    """

    steps: int
    lr: float
    seed: int
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    decay: float = 0.01
    save_seconds: float = 180.0
    minutes: float | None = None
    budget: float | None = None
    """Minutes of the whole training, resumed ones included; runs then depend on the machine's speed."""
    rounded: bool = False
    """Compute Muon's updates in bfloat16: half their time."""
    world: str = ""
    """What the training stands on, see `world_hash`; a checkpoint of another world is refused."""

    @property
    def key(self) -> str:
        """What a checkpoint must agree with."""
        return f"world {self.world}, rate {self.lr:g}, seed {self.seed}"

    def on(self, world: str, without: frozenset[str] = frozenset()) -> "Plan":
        """The same plan, for a world without some concepts."""
        return replace(self, world=" without ".join([world, *sorted(without)]))

    def progress(self, step: int, minutes: float) -> float:
        """How much of the training is done, in [0, 1]."""
        share = step / self.steps
        return share if self.budget is None else min(1.0, max(share, minutes / self.budget))

    def lr_at(self, step: int, minutes: float = 0.0) -> float:
        """Linear warm-up, then half a cosine down to FLOOR of `lr`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        start = self.warmup / self.steps
        done = max(0.0, self.progress(step, minutes) - start) / max(1e-9, 1 - start)
        return self.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Trained:
    """What came out: the EMA copy, the step it stands at, and whether the plan is complete."""

    average: nn.Module
    step: int
    is_complete: bool


def fit(module: nn.Module, loss: Callable[[torch.Generator, int], Tensor], plan: Plan, checkpoint: Path) -> Trained:
    """Train `module`. `loss` draws its own batch from the generator it is given, for the step it is given."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    training = Training(module, deepcopy(module).requires_grad_(False).eval(), _optimizers(module, plan))
    if checkpoint.exists():
        restore(checkpoint, training, plan.key)
        if rank() == 0:
            print(f"goes on from {checkpoint.name} at step {training.step}", flush=True)
    clock = _Clock(training.minutes, plan)
    mean, saved = None, time.monotonic()
    is_over = plan.progress(training.step, training.minutes) >= 1
    while not is_over:
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.lr_at(training.step, clock.minutes)
        value = loss(generator(plan.seed, training.step, rank()), training.step)
        module.zero_grad()
        value.backward()
        _share_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        for optimizer in training.optimizers:
            optimizer.step()
        _follow(training.average, module, min(plan.ema, (training.step + 1) / (training.step + 10)))
        training.step += 1
        mean = value.detach() if mean is None else mean.lerp(value.detach(), 0.02)
        if training.step % 100 == 0 and rank() == 0:
            clock.report(training.step, float(mean))
        is_over = training.step == plan.steps or (training.step % 10 == 0 and clock.is_up())
        if (is_over or time.monotonic() - saved > plan.save_seconds) and rank() == 0:
            training.minutes = clock.minutes
            save(checkpoint, training, plan.key)
            saved = time.monotonic()
    return Trained(training.average, training.step, plan.progress(training.step, clock.minutes) >= 1)


class _Clock:
    """Time spent on a training, this run's and earlier ones'."""

    def __init__(self, spent: float, plan: Plan) -> None:
        self.spent, self.plan, self.started = spent, plan, time.monotonic()
        self.steps = 0

    @property
    def minutes(self) -> float:
        return self.spent + (time.monotonic() - self.started) / 60

    def is_up(self) -> bool:
        """Whether this run or the whole training has had its time; all processes stop at the same step."""
        run = self.minutes - self.spent
        is_up = self.plan.minutes is not None and run > self.plan.minutes
        is_up = is_up or (self.plan.budget is not None and self.minutes > self.plan.budget)
        if distributed.is_initialized():
            flag = torch.tensor(int(is_up))
            distributed.broadcast(flag, 0)
            return bool(flag)
        return is_up

    def report(self, step: int, mean: float) -> None:
        self.steps += 100
        pace = (self.minutes - self.spent) * 60 / self.steps
        ends = (
            f"{self.plan.budget:g} min" if self.plan.budget else f"{(self.plan.steps - step) * pace / 60:.0f} min left"
        )
        print(f"step {step} loss {mean:.4f} {pace:.3f} s/step, {self.minutes:.1f} min, {ends}", flush=True)


def _optimizers(module: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices, others = split(module)
    adam = torch.optim.AdamW(others, lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.decay, fused=True)
    return [adam, Muon(matrices, plan.lr, decay=plan.decay, rounded=plan.rounded)] if matrices else [adam]


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    if distributed.is_initialized():
        flat = torch.cat([p.grad.flatten() for p in parameters])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, rate: float) -> None:
    pairs = list(zip(average.parameters(), module.parameters(), strict=True))
    torch._foreach_lerp_([a.data for a, _ in pairs], [m.data for _, m in pairs], 1 - rate)
    for kept, new in zip(average.buffers(), module.buffers(), strict=True):  # Running statistics are not averaged.
        kept.copy_(new)
