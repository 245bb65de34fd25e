"""Lets the callbacks of sampling loops act in the loop of a stock diffusers pipeline, which has no place for them.

A pipeline's loop runs under its progress bar. Inside it, what a pipeline hands to its scheduler and to its denoiser
tells where the loop is, and what they get instead is what the callbacks return. Latents that are packed two by two are
unpacked for them. Pipelines that pack latents guide by a second call of their denoiser, of the negatives.
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
from ..diffusion.packed_latents import pack_latents, unpack_latents
from ..family import FamilySpec
from ..model_view import Conditioning, PromptGuidance
from .forward import remove_on_exit

_watched: WeakSet[nn.Module] = WeakSet()  # denoisers
_UNKNOWN = nan


@contextmanager
def watch_stock_loop(pipeline: Pipeline, denoiser: nn.Module, spec: FamilySpec) -> Iterator[None]:
    """Inside the block, the pipeline's loops run the callbacks that are on its denoiser, as the sampler's loops do.

    `start` gets None for the number of negatives. `ModelError` in a loop whose latents or guidance callbacks change,
    if its latents are of a form that is not known here, or if it has no guidance that callbacks change.
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
                stack.enter_context(_StockLoop(pipeline, denoiser, spec, steering).watched())
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
    spec: FamilySpec
    callbacks: Sequence[SamplingCallbacks]
    k: int = 0
    at: SamplingStep | None = None  # of the step whose prediction is being made
    whole: Tensor | None = None  # the latents of a step with both sides of guidance, before they are scaled
    texts: Conditioning | None = None  # that the callbacks guide by, in place of the pipeline's
    squares: tuple[int, int] | None = None  # rows and columns of packed latents; None: they are not packed
    said: Tensor | None = None  # the prediction for the prompts, until a second call gives that for the negatives
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
            self.squares = self._packing(given)
            whole = self._unpacked(given[name]) if self.whole is None else self.whole
            self._begin_step(whole, self._conditioning(given))
        elif self.squares is not None:
            self._add_negatives(self._conditioning(given))
        assert self.at is not None
        moved = self.at.latents
        if self.squares is not None:
            given[name] = pack_latents(self.at.scale_input(moved)).to(given[name].dtype)
        else:
            moved = torch.cat([moved] * (len(given[name]) // len(moved)))
            if self.whole is None or not torch.equal(moved, self.whole):
                given[name] = self.at.scale_input(moved).to(given[name].dtype)
        texts = self._texts_of_call()
        if texts is not None and len(texts.states) == len(given["encoder_hidden_states"]):
            given = _with_conditioning(given, texts, self.spec.text_mask_input)
        return (), given

    def _packing(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        """The squares of a picture whose latents are packed two by two, by the positions that the pipeline gives."""
        places = given.get("img_ids")
        if self.spec.latent_patch != 2 or places is None:
            return None
        return int(places[:, 1].max()) + 1, int(places[:, 2].max()) + 1

    def _unpacked(self, latents: Tensor) -> Tensor:
        return latents if self.squares is None else unpack_latents(latents, *self.squares)

    def _texts_of_call(self) -> Conditioning | None:
        """What the callbacks put in place of the texts of the call that begins."""
        if self.texts is None or self.squares is None:
            return self.texts
        count = len(self.texts.states) // 2
        return self.texts.rows(slice(count, None) if self.said is None else slice(0, count))

    def _begin_step(self, whole: Tensor, texts: Conditioning) -> None:
        kind = type(self.pipeline).__name__
        message = f"the edit moves latents or guidance, and a {kind} packs its latents: draw with this library's sample"
        require(whole.ndim == 4, message, ModelError)
        doubled = self.squares is None and self._is_doubled(whole)
        if self.squares is None:
            self._require_guidance(doubled)
        scale = getattr(self.pipeline, "guidance_scale", _UNKNOWN)
        guidance = self._guided(PromptGuidance(texts, float(scale) if doubled else None), self.squares is None)
        timesteps, scaled = self.pipeline.scheduler.timesteps, self.scale
        t = timesteps[self.k]
        latents = whole[: len(whole) // 2] if doubled else whole
        at = SamplingStep(self.k, len(timesteps), t, latents, guidance, lambda x: x if scaled is None else scaled(x, t))
        with self._busy():
            for each in self.callbacks:
                at = replace(at, latents=run_callback(each.before, "before", at, at.latents))
        self.at = at

    def _add_negatives(self, negatives: Conditioning) -> None:
        """Complete a step's guidance at its second call, whose scale the scheduler is not told."""
        assert self.at is not None
        both = Conditioning.concatenate([negatives, self.at.guidance.texts])
        self.at = replace(self.at, guidance=self._guided(PromptGuidance(both, _UNKNOWN), True))

    def _guided(self, guidance: PromptGuidance, is_whole: bool) -> PromptGuidance:
        """What the callbacks make of a loop's guidance, once both of its sides are known: in the first step."""
        texts = guidance.texts
        with self._busy():
            for each in self.callbacks if self.k == 0 and is_whole else ():
                guidance = guidance if each.guide is None else each.guide(guidance)
        if self.texts is not None and is_whole:
            guidance = replace(guidance, texts=self.texts)
        if guidance.texts is not texts:
            self.texts = guidance.texts
        return guidance

    def _require_guidance(self, is_there: bool) -> None:
        message = (
            f"the edit changes classifier-free guidance, and this {type(self.pipeline).__name__} draws without it: give"
            " a guidance scale above 1 (FLUX: true_cfg_scale and a negative_prompt), or draw with this library's sample"
        )
        require(is_there or all(each.guide is None for each in self.callbacks), message, ModelError)

    def _conditioning(self, given: Mapping[str, Any]) -> Conditioning:
        """The conditioning in the denoiser's arguments."""
        added, states = given.get("added_cond_kwargs") or {}, given["encoder_hidden_states"]
        pooled, scale = given.get("pooled_projections", added.get("text_embeds")), None
        if given.get("timestep_cond") is not None:  # Guidance is distilled into the denoiser.
            scale = torch.full((len(states),), float(self.pipeline.guidance_scale), device=states.device)
        elif given.get("guidance") is not None:
            scale = given["guidance"]
        mask = given.get(self.spec.text_mask_input)
        mask = None if mask is None else mask[:, : states.shape[1]]  # It may go on over the picture's places.
        return Conditioning(states, pooled, added.get("time_ids"), mask, scale)

    def _is_doubled(self, whole: Tensor) -> bool:
        """Whether the batch holds the negatives and then the prompts."""
        told = getattr(self.pipeline, "do_classifier_free_guidance", None)
        half = len(whole) // 2
        return bool(told) if told is not None else 2 * half == len(whole) and torch.equal(whole[:half], whole[half:])

    def _answered(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if self.is_busy or self.at is None:
            return
        prediction = self._unpacked(out[0] if isinstance(out, tuple) else out.sample)
        b, c = self.at.latents.shape[:2]
        if self.squares is not None and self.said is None:
            self.said = prediction
        elif self.squares is not None:
            assert self.said is not None
            self.at = replace(self.at, sides=(prediction, self.said))
        elif self.at.guidance.scale is not None and len(prediction) == 2 * b:
            # SD3's skip-layer call is of the prompts alone.
            self.at = replace(self.at, sides=(prediction[:b, :c], prediction[b:, :c]))

    def _stepped(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run `predicted` and `after` around the scheduler's step, from the latents that `before` returned."""
        at, self.at, self.whole, self.said = self.at, None, None, None
        if at is None:  # Its denoiser was not asked.
            self.k += 1
            return self.step(model_output, timestep, sample, *args, **kwargs)
        if self.squares is not None:
            self._require_guidance(at.sides is not None)
        prediction = self._unpacked(model_output)
        at = replace(at, guidance=_with_known_scale(at, prediction))
        with self._busy():
            for each in self.callbacks:
                prediction = run_callback(each.predicted, "predicted", replace(at, prediction=prediction), prediction)
            at = replace(at, prediction=prediction)
            given = [x if self.squares is None else pack_latents(x) for x in (prediction, at.latents.to(sample.dtype))]
            out = self.step(given[0], timestep, given[1], *args, **kwargs)
            following = self._unpacked(out[0] if isinstance(out, tuple) else out.prev_sample)
            for each in self.callbacks:
                following = run_callback(each.after, "after", replace(at, latents=following), following)
        self.k += 1
        following = following if self.squares is None else pack_latents(following)
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


def _with_conditioning(given: Mapping[str, Any], texts: Conditioning, mask: str) -> dict[str, Any]:
    """The arguments with another conditioning; what they do not name stays left out."""
    found = {**given, "encoder_hidden_states": texts.states}
    own = given.get(mask)
    if own is not None and texts.mask is not None:
        found[mask] = torch.cat([texts.mask.to(own.dtype), own[:, texts.mask.shape[1] :]], 1)
    if "pooled_projections" in given:
        found["pooled_projections"] = texts.pooled
    elif "text_embeds" in (given.get("added_cond_kwargs") or {}):
        found["added_cond_kwargs"] = {**given["added_cond_kwargs"], "text_embeds": texts.pooled}
    return found
