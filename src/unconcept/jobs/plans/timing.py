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
from ...models.diffusion.sampler import is_guidance_distilled
from ...models.diffusion.vae import decode_latents, picture_size
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

    If a single picture is slow, only one prediction and the decoding of one picture are timed.
    """
    with pinned_threads(1) if workers > 1 else nullcontext(), nullcontext() if edit is None else edit.applied(model):
        _predicted(model, spec)  # Warms up.
        step = _predicted(model, spec)
        if step > _SLOW:
            decoding, _ = timed_once(lambda: decode_latents(model, _noise(model, 1)))
            return DrawTime(1, decoding, step)
        batch = max(1, min(spec.batch_size, pictures))
        if model.few_step is not None:  # Its record allows no other numbers of steps.
            return DrawTime(batch, 0.0, _sampled(model, spec, batch, spec.steps) / spec.steps)
        once, thrice = (_sampled(model, spec, batch, steps) for steps in (1, 3))
    step = max(0.0, thrice - once) / 2
    return DrawTime(batch, max(0.0, once - step), step)


def time_with_edit(
    model: ModelView, spec: DrawSpec, pictures: int, edit: Edit, base: DrawTime, workers: int = 1
) -> DrawTime:
    """Time drawing with an edit; as fast as `base` if it only changes weights."""
    return base if edit.can_bake() else time_drawing(model, spec, pictures, edit, workers)


@torch.no_grad()
def _predicted(model: ModelView, spec: DrawSpec) -> float:
    """Seconds of what one sampling step of one picture predicts: two rows under guidance."""
    rows = 1 if spec.guidance_scale <= 1 or is_guidance_distilled(model) else 2
    t = torch.full((rows,), len(model.schedule.alpha) // 2, device=model.device)
    latents, texts = _noise(model, rows), model.condition([""] * rows)
    seconds, _ = timed_once(lambda: _synchronised(model, model.denoise(latents, t, texts)))
    return seconds


def _sampled(model: ModelView, spec: DrawSpec, batch: int, steps: int) -> float:
    noise, texts = _noise(model, batch), [""] * batch

    def draw() -> Tensor:
        return _synchronised(model, model.sample(texts, noise, steps, spec.guidance_scale, spec.sampler))

    return timed_once(draw)[0]


def _noise(model: ModelView, rows: int) -> Tensor:
    noise = initial_noise(0, model.latent_shape)[None].expand(rows, -1, -1, -1).clone()
    return noise.to(model.device, model.dtype)


def _synchronised(model: ModelView, result: Tensor) -> Tensor:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return result


def load_networks(model: ModelView) -> float:
    """Load denoiser, encoders and autoencoder; return the seconds."""
    parts = (
        "denoiser",
        "vae",
        *(encoder.part for encoder in model.spec.encoders if model.checkpoint.has(encoder.part)),
    )
    seconds, _ = timed_once(lambda: [model.modules(part) for part in parts])
    return seconds


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
    return torch.full((3, *picture_size(model)), 0.5)


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
