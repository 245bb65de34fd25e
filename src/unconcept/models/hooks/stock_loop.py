"""Lets the callbacks of sampling loops act in the loop of a stock diffusers pipeline, which has no place for them.

A pipeline's loop runs under its progress bar. Inside it, what a pipeline hands to its scheduler and to its denoiser
tells where the loop is, and what they get instead is what the callbacks return.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import isnan, nan
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..checkpoint.pipeline import Pipeline
from ..diffusion.callbacks import SamplingCallbacks, SamplingStep, run_callback, running_callbacks
from ..model_view import Conditioning, PromptGuidance
from .forward import remove_on_exit

_watched: WeakSet[nn.Module] = WeakSet()  # denoisers
_UNKNOWN = nan


@contextmanager
def watch_stock_loop(pipeline: Pipeline, denoiser: nn.Module) -> Iterator[None]:
    """Inside the block, the pipeline's loops run the callbacks that are on its denoiser, as the sampler's loops do.

    `start` gets None for the number of negatives. `ModelError` in a loop whose latents or guidance callbacks change,
    if the pipeline packs its latents, or guides by other means than a doubled batch.
    """
    if denoiser in _watched:
        yield
        return
    own, progress_bar = vars(pipeline).get("progress_bar"), pipeline.progress_bar

    @contextmanager
    def loop(total: int | None) -> Iterator[Any]:
        with running_callbacks(denoiser, SamplingCallbacks(), None) as called, ExitStack() as stack:
            steering = [each for each in called if each.acts]
            if steering:
                stack.enter_context(_StockLoop(pipeline, denoiser, steering).watched())
            yield stack.enter_context(progress_bar(total=total))

    def watched(iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        return loop(total) if iterable is None else progress_bar(iterable, total)

    pipeline.progress_bar = watched
    _watched.add(denoiser)
    try:
        yield
    finally:
        _watched.discard(denoiser)
        if own is None:
            del pipeline.progress_bar
        else:
            pipeline.progress_bar = own


@dataclass
class _StockLoop:
    """A running loop of a pipeline."""

    pipeline: Pipeline
    denoiser: nn.Module
    callbacks: Sequence[SamplingCallbacks]
    k: int = 0
    at: SamplingStep | None = None  # of the step whose prediction is being made
    whole: Tensor | None = None  # the latents of a step with both sides of guidance, before they are scaled
    texts: Conditioning | None = None  # that the callbacks guide by, in place of the pipeline's
    is_busy: bool = False  # A callback itself calls the denoiser.
    step: Callable[..., Any] = field(init=False)  # the scheduler's own
    scale: Callable[..., Any] | None = field(init=False)

    def __post_init__(self) -> None:
        scheduler = self.pipeline.scheduler
        self.step, self.scale = scheduler.step, getattr(scheduler, "scale_model_input", None)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block, see and replace what the denoiser and the scheduler are given."""
        scheduler = self.pipeline.scheduler
        scheduler.step = self._stepped
        if self.scale is not None:
            scheduler.scale_model_input = self._scaled
        hooks = [
            self.denoiser.register_forward_pre_hook(self._called, with_kwargs=True, prepend=True),
            self.denoiser.register_forward_hook(self._answered),
        ]
        try:
            with remove_on_exit(hooks):
                yield
        finally:
            for name in ("step", "scale_model_input"):
                vars(scheduler).pop(name, None)

    def _scaled(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.scale is not None
        self.whole = sample
        return self.scale(sample, *args, **kwargs)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `guide` and `before` at the first call of a step; give every call of it what they return."""
        if self.is_busy:
            return None
        names = list(inspect.signature(module.forward).parameters)
        given, name = {**dict(zip(names, args, strict=False)), **kwargs}, names[0]
        if self.at is None:
            self._begin_step(given[name] if self.whole is None else self.whole, self._conditioning(given))
        assert self.at is not None
        sides = len(given[name]) // len(self.at.latents)
        moved = torch.cat([self.at.latents] * sides)
        if self.whole is None or not torch.equal(moved, self.whole):
            given[name] = self.at.scale_input(moved).to(given[name].dtype)
        if self.texts is not None and len(self.texts.states) == len(given["encoder_hidden_states"]):
            given = _with_conditioning(given, self.texts)
        return (), given

    def _begin_step(self, whole: Tensor, texts: Conditioning) -> None:
        kind = type(self.pipeline).__name__
        message = f"the edit moves latents or guidance, and a {kind} packs its latents: draw with this library's sample"
        require(whole.ndim == 4, message, ModelError)
        doubled = self._is_doubled(whole)
        message = (
            f"the edit changes classifier-free guidance, and this {kind} doubles no batch for it: give a guidance scale"
            " above 1, or draw with this library's sample"
        )
        require(doubled or all(each.guide is None for each in self.callbacks), message, ModelError)
        scale = getattr(self.pipeline, "guidance_scale", _UNKNOWN)
        guidance = PromptGuidance(texts, float(scale) if doubled else None)
        with self._busy():
            for each in self.callbacks if self.k == 0 else ():
                guidance = guidance if each.guide is None else each.guide(guidance)
        if self.texts is not None:
            guidance = replace(guidance, texts=self.texts)
        if guidance.texts is not texts:
            self.texts = guidance.texts
        timesteps, scaled = self.pipeline.scheduler.timesteps, self.scale
        t = timesteps[self.k]
        latents = whole[: len(whole) // 2] if doubled else whole
        at = SamplingStep(self.k, len(timesteps), t, latents, guidance, lambda x: x if scaled is None else scaled(x, t))
        with self._busy():
            for each in self.callbacks:
                at = replace(at, latents=run_callback(each.before, "before", at, at.latents))
        self.at = at

    def _conditioning(self, given: Mapping[str, Any]) -> Conditioning:
        """The conditioning in the denoiser's arguments."""
        added, states = given.get("added_cond_kwargs") or {}, given["encoder_hidden_states"]
        pooled, scale = given.get("pooled_projections", added.get("text_embeds")), None
        if given.get("timestep_cond") is not None:  # Guidance is distilled into the denoiser.
            scale = torch.full((len(states),), float(self.pipeline.guidance_scale), device=states.device)
        return Conditioning(states, pooled, added.get("time_ids"), given.get("encoder_attention_mask"), scale)

    def _is_doubled(self, whole: Tensor) -> bool:
        """Whether the batch holds the negatives and then the prompts."""
        told = getattr(self.pipeline, "do_classifier_free_guidance", None)
        half = len(whole) // 2
        return bool(told) if told is not None else 2 * half == len(whole) and torch.equal(whole[:half], whole[half:])

    def _answered(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if self.is_busy or self.at is None or self.at.guidance.scale is None:
            return
        prediction = out[0] if isinstance(out, tuple) else out.sample
        b, c = self.at.latents.shape[:2]
        if len(prediction) == 2 * b:  # SD3's skip-layer call is of the prompts alone.
            self.at = replace(self.at, sides=(prediction[:b, :c], prediction[b:, :c]))

    def _stepped(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run `predicted` and `after` around the scheduler's step, from the latents that `before` returned."""
        at, self.at, self.whole = self.at, None, None
        if at is None:  # Its denoiser was not asked.
            self.k += 1
            return self.step(model_output, timestep, sample, *args, **kwargs)
        prediction, at = model_output, replace(at, guidance=_with_known_scale(at, model_output))
        with self._busy():
            for each in self.callbacks:
                prediction = run_callback(each.predicted, "predicted", replace(at, prediction=prediction), prediction)
            at = replace(at, prediction=prediction)
            out = self.step(prediction, timestep, at.latents.to(sample.dtype), *args, **kwargs)
            following = out[0] if isinstance(out, tuple) else out.prev_sample
            for each in self.callbacks:
                following = run_callback(each.after, "after", replace(at, latents=following), following)
        self.k += 1
        if isinstance(out, tuple):
            return (following, *out[1:])
        out.prev_sample = following
        return out

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False


def _with_known_scale(at: SamplingStep, guided: Tensor) -> PromptGuidance:
    """The guidance of a step; a pipeline that does not tell its scale tells it by what it made of both sides."""
    if at.sides is None or at.guidance.scale is None or not isnan(at.guidance.scale):
        return at.guidance
    empty, said = (side.double() for side in at.sides)
    way = said - empty
    return replace(at.guidance, scale=float((way * (guided.double() - empty)).sum() / way.square().sum()))


def _with_conditioning(given: Mapping[str, Any], texts: Conditioning) -> dict[str, Any]:
    """The arguments with another conditioning; what they do not name stays left out."""
    found = {**given, "encoder_hidden_states": texts.states}
    if given.get("encoder_attention_mask") is not None:
        found["encoder_attention_mask"] = texts.mask
    if "pooled_projections" in given:
        found["pooled_projections"] = texts.pooled
    elif "text_embeds" in (given.get("added_cond_kwargs") or {}):
        found["added_cond_kwargs"] = {**given["added_cond_kwargs"], "text_embeds": texts.pooled}
    return found
