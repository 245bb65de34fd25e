"""Callbacks around the steps of a sampling loop, given by the caller or found by the denoiser that the loop calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...core.errors import SettingsError, require
from ..model_view import PromptGuidance


@dataclass(frozen=True)
class SamplingStep:
    """A step of a loop, as a callback gets it."""

    k: int  # network calls done before
    calls: int  # of the whole way from noise
    t: Tensor  # its timestep, ()
    latents: Tensor  # (b, c, h, w): before the step, or after it in `after`
    guidance: PromptGuidance
    scale_input: Callable[[Tensor], Tensor]  # from latents to the denoiser's input
    prediction: Tensor | None = None  # (b, c, h, w): the guided prediction; None in `before`
    sides: tuple[Tensor, Tensor] | None = None  # of the negatives and the prompts, each (b, c, h, w); None unguided


StepCallback = Callable[[SamplingStep], Tensor | None]


@dataclass(frozen=True)
class SamplingCallbacks:
    """Callbacks of a loop; each may return a tensor that replaces latents or prediction, or None to leave them."""

    before: StepCallback | None = None
    """Before the prediction; replaces the latents."""
    predicted: StepCallback | None = None
    """After the guided prediction, which it replaces."""
    after: StepCallback | None = None
    """After the step; replaces the latents."""
    start: Callable[[int | None], None] | None = None
    """Before the loop, with the number of negative rows at the start of each of its batches, 0 without guidance.

    None in the loop of a stock pipeline.
    """
    guide: Callable[[PromptGuidance], PromptGuidance] | None = None
    """Before the loop; replaces what its predictions are guided by."""
    stop: Callable[[], None] | None = None
    """After the loop, also after an error."""

    @property
    def acts(self) -> bool:
        """Whether it may change what a loop draws."""
        return any((self.before, self.predicted, self.after, self.guide))


_ACTIVE: WeakKeyDictionary[nn.Module, list[SamplingCallbacks]] = WeakKeyDictionary()


@contextmanager
def callbacks_on(denoiser: nn.Module, callbacks: SamplingCallbacks) -> Iterator[None]:
    """Call these callbacks in every sampling loop of a denoiser inside the block."""
    active = _ACTIVE.setdefault(denoiser, [])
    active.append(callbacks)
    try:
        yield
    finally:
        active.remove(callbacks)


@contextmanager
def count_pictures(denoiser: nn.Module, pictures: int, tick: Callable[[float], None]) -> Iterator[None]:
    """Call `tick` after every step with the share of so many pictures that it is; the shares add up to all of them.

    A picture can take minutes: whoever waits is told step by step.
    """
    told, first = 0.0, 0

    def begin(step: SamplingStep) -> None:
        nonlocal first
        first = step.k if step.k and not told else first  # Drawn over a picture, it begins later.

    def count(step: SamplingStep) -> None:
        nonlocal told
        done = max(told, pictures * (step.k + 1 - first) / (step.calls - first))
        tick(done - told)
        told = done

    with callbacks_on(denoiser, SamplingCallbacks(before=begin, after=count)):
        yield
    tick(pictures - told)


@contextmanager
def running_callbacks(
    denoiser: nn.Module, own: SamplingCallbacks, negatives: int | None
) -> Iterator[list[SamplingCallbacks]]:
    """Start a loop's callbacks and stop them at the end: those on the denoiser, then the caller's own."""
    found = [*_ACTIVE.get(denoiser, ()), own]
    try:
        for each in found:
            if each.start is not None:
                each.start(negatives)
        yield found
    finally:
        for each in found:
            if each.stop is not None:
                each.stop()


def run_callback(callback: StepCallback | None, name: str, at: SamplingStep, before: Tensor) -> Tensor:
    """Return what stands after a callback in place of `before`."""
    return before if callback is None else checked_result(callback(at), before, name, at.k)


def checked_result(found: Tensor | None, before: Tensor, name: str, k: int) -> Tensor:
    """Return what a callback returned in place of `before`; `SettingsError` for another shape, NaN or infinity."""
    if found is None:
        return before
    require(
        found.shape == before.shape,
        f"the callback {name!r} returned {tuple(found.shape)} at step {k}: return {tuple(before.shape)}, or None",
        SettingsError,
    )
    require(
        bool(torch.isfinite(found).all()),
        f"the callback {name!r} returned NaN or infinity at step {k}: return finite numbers, or None",
        SettingsError,
    )
    return found
