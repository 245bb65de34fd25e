"""Times the parts that cost most, with a few short runs: sampling with a model or an edit, and judging."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ...core import pinned_threads
from ...edits import Edit
from ...evaluation.judging.judge import Judge
from ...evaluation.sampling import DrawSpec, initial_noise, spec_for
from ...models import ModelView
from ...prompts.checks import Check, Prompt

_SLOW = 0.5  # seconds of one step of one picture from which no batch is timed
_JUDGED_AT_ONCE = 8
_HASHED_BLOCK = 2**26
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class DrawTime:
    """Seconds of drawing a batch: a fixed part (encoding, decoding), and each sampling step."""

    batch: int
    fixed: float
    step: float

    def seconds(self, pictures: int, steps: int) -> float:
        """Seconds to draw `pictures` in one process."""
        return pictures / self.batch * (self.fixed + steps * self.step)

    @property
    def of_one_step(self) -> float:
        """Seconds of one sampling step of one picture."""
        return self.step / self.batch


def time_drawing(
    model: ModelView, spec: DrawSpec, pictures: int, edit: Edit | None = None, workers: int = 1
) -> DrawTime:
    """Time a batch in one and in three sampling steps, on one thread if workers would draw.

    A batch is a single picture if that alone is slow.
    """
    with pinned_threads(1) if workers > 1 else nullcontext(), nullcontext() if edit is None else edit.applied(model):
        fewest = fewest_steps(model)
        _sampled(model, spec, 1, fewest)  # Warms up.
        batch = max(1, min(spec.batch_size, pictures)) if _sampled(model, spec, 1, fewest) < _SLOW else 1
        if model.few_step is not None:  # Its record allows no other numbers of steps.
            return DrawTime(batch, 0.0, _sampled(model, spec, batch, spec.steps) / spec.steps)
        once, thrice = (_sampled(model, spec, batch, steps) for steps in (1, 3))
    step = max(0.0, thrice - once) / 2
    return DrawTime(batch, max(0.0, once - step), step)


def _sampled(model: ModelView, spec: DrawSpec, batch: int, steps: int) -> float:
    noise = initial_noise(0, model.latent_shape)[None].expand(batch, -1, -1, -1).clone()
    begun = time.perf_counter()
    model.sample([""] * batch, noise, steps, spec.guidance_scale, spec.sampler)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - begun


def judge_seconds(judge: Judge, check: Check, like: Tensor) -> float:
    """Seconds that the judge takes for one picture like this one (3, h, w)."""
    opened = judge.open()
    if judge.reader.needs_model:
        found: float = opened.seconds_per_picture()
        return found
    pictures, asked = like.expand(_JUDGED_AT_ONCE, -1, -1, -1), [judge.question(check)] * _JUDGED_AT_ONCE
    opened.score(pictures, asked)  # Warms up.
    seconds, _ = timed_once(lambda: opened.score(pictures, asked))
    return seconds / _JUDGED_AT_ONCE


def timed_once(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Do something; return its seconds and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def grey_picture(model: ModelView) -> Tensor:
    """A picture (3, h, w) of the size that the model draws, to stand for pictures that were not drawn."""
    noise = initial_noise(0, model.latent_shape)[None]
    (one,) = model.sample([""], noise, fewest_steps(model), 1.0)
    return torch.full_like(one, 0.5)


def fewest_steps(model: ModelView) -> int:
    """The fewest sampling steps in which the model draws."""
    return 1 if model.few_step is None else min(model.few_step.timesteps)


def time_step(model: ModelView) -> float:
    """Seconds of one sampling step of one picture, guided as the model usually is."""
    return time_drawing(model, spec_for(model.name), 1).of_one_step


def hash_seconds(size: int) -> float:
    """Seconds to hash so many bytes."""
    block = bytes(_HASHED_BLOCK)
    seconds, _ = timed_once(lambda: hashlib.sha256(block).digest())
    return size / _HASHED_BLOCK * seconds


def grey_pictures(model: ModelView) -> Callable[[Sequence[Prompt]], Tensor]:
    """A function that gives pictures (n, 3, h, w) to stand for those of prompts."""
    one = grey_picture(model)
    return lambda prompts: one.expand(len(prompts), -1, -1, -1).clone()
