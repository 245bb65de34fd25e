"""Edits of classifier-free guidance: they change what a sampler's predictions are guided away from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import EditError, RequestError, SettingsError, require
from ..core.registry import suggest
from ..linalg.safety_guidance import SafetyGate, safety_term
from ..models import Conditioning, ModelView
from ..models.diffusion.callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from ..models.hooks.stock_loop import watch_stock_loop
from ..models.model_view import PromptGuidance
from ..prompts.text_matching import shortest_names
from .common import SamplerEdit
from .edit_file import StoredEdit
from .registry import edit_kind
from .weights import require_same_base


def negative_text(model: ModelView, targets: Sequence[str], prefix: str = "") -> str:
    """The prefix and the targets' names with commas between them; "retro" stands for "retro style" too.

    Raises `RequestError` if a text encoder cannot hold it.
    """
    names = shortest_names(targets)
    text = prefix + ", ".join(names)
    fits = all(tokenizer.can_hold(text) for tokenizer in model.tokenizers)
    message = f"the names of {len(names)} targets are too long for one negative text of {model.name}: erase fewer"
    require(fits, message, RequestError)
    return text


class GuidanceRule(Protocol):
    """Protocol of a rule: a frozen dataclass of numbers."""

    def callbacks(self, model: ModelView, text: str, strength: float) -> SamplingCallbacks:
        """Return the callbacks that guide a model's loops away from a text; `strength` is not 0."""


@dataclass(frozen=True)
class NegativeText:
    """Puts the concept in place of the empty text: e = e_S + g (e_p - e_S)."""

    def callbacks(self, model: ModelView, text: str, strength: float) -> SamplingCallbacks:
        """At a strength other than 1, states between those of the negatives and of the concept (inferred)."""

        def guide(given: PromptGuidance) -> PromptGuidance:
            count = _guided_pictures(given)
            negatives, named = given.texts.rows(slice(0, count)), _rows_of(model, text, count)
            if strength != 1:
                named = _between(negatives, named, strength)
            return replace(given, texts=Conditioning.concatenate([named, given.prompts]))

        return SamplingCallbacks(guide=guide)


@dataclass(frozen=True)
class SafeGuidance:
    """Subtracts a gated direction towards the concept from that of guidance: Safe Latent Diffusion."""

    warmup: float
    """Share of a loop's network calls before the term is subtracted; its momentum grows in them."""
    guidance_scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def callbacks(self, model: ModelView, text: str, strength: float) -> SamplingCallbacks:
        run = _SafeRun(model, text, strength, self)
        return SamplingCallbacks(guide=run.begin, predicted=run.steer)


@dataclass
class _SafeRun:
    """One safe guidance while it is applied, with the momentum of the running loop."""

    model: ModelView
    text: str
    strength: float
    rule: SafeGuidance
    named: Conditioning | None = None
    momentum: Tensor | None = None

    def begin(self, given: PromptGuidance) -> PromptGuidance:
        named = _rows_of(self.model, self.text, _guided_pictures(given))
        self.named, self.momentum = replace(named, guidance=given.prompts.guidance), None
        return given

    def steer(self, at: SamplingStep) -> Tensor | None:
        """e = e_0 + g (e_p - e_0 - gamma), with one more call of the denoiser.

        The gate's numbers are in units of noise predictions, to which those of v, flow or clean latents are converted
        (inferred).
        """
        assert self.named is not None
        assert at.sides is not None
        empty, said = at.sides
        concept = self.model.denoise(at.scale_input(at.latents), at.t, self.named)
        factor = self.model.schedule.epsilon_factor(at.t, said)
        before = torch.zeros_like(said) if self.momentum is None else self.momentum
        rule = self.rule
        gate = SafetyGate(rule.guidance_scale, rule.threshold, rule.momentum_scale, rule.momentum_beta)
        term, self.momentum = safety_term(factor * (said - concept), factor * (concept - empty), before, gate)
        if at.k < round(rule.warmup * at.calls):
            return None
        # At a flow's pure noise the prediction tells nothing of the noise: the factor and the term are 0.
        own = torch.where(factor == 0, torch.zeros_like(term), term / factor)
        return at.guidance.combine(empty, said - self.strength * own)


GUIDANCE_RULES: dict[str, type[NegativeText] | type[SafeGuidance]] = {
    "negative-prompt": NegativeText,
    "safe": SafeGuidance,
}


def _guided_pictures(given: PromptGuidance) -> int:
    """The number of pictures; `SettingsError` without classifier-free guidance."""
    message = (
        "the edit changes classifier-free guidance, but these pictures are drawn without: give a guidance scale above"
        " 1, or remove the edit"
    )
    require(given.scale is not None, message, SettingsError)
    return len(given.texts.states) // 2


@torch.no_grad()
def _rows_of(model: ModelView, text: str, count: int) -> Conditioning:
    return model.condition([text]).rows(torch.zeros(count, dtype=torch.long, device=model.device))


def _between(negatives: Conditioning, named: Conditioning, weight: float) -> Conditioning:
    """The states and pooled text a share of the way from the negatives to the concept."""
    states = torch.lerp(negatives.states, named.states, weight)
    pooled = None
    if negatives.pooled is not None and named.pooled is not None:
        pooled = torch.lerp(negatives.pooled, named.pooled, weight)
    mask = None if negatives.mask is None or named.mask is None else torch.maximum(negatives.mask, named.mask)
    return replace(named, states=states, pooled=pooled, mask=mask)


@edit_kind("guidance")
@dataclass(frozen=True)
class GuidanceEdit(SamplerEdit):
    """Guides every prompt away from a text, wherever pictures are drawn with classifier-free guidance.

    In stock pipelines too; FLUX's guides so if it is given `true_cfg_scale` and a negative prompt.
    """

    text: str
    maps: tuple[str, ...]  # full names of the text maps of the model that it is for
    rule: NegativeText | SafeGuidance

    def __post_init__(self) -> None:
        require(bool(self.text.strip()) and bool(self.maps), "it names no text or no maps", EditError)

    @property
    def bound_names(self) -> tuple[str, ...]:
        return self.maps

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Change the sampler's guidance inside the block; `EditError` with both hashes if it is for other weights."""
        require_same_base(self.origin, model, self.maps)
        if self.strength == 0:
            yield
            return
        denoiser, callbacks = model.modules("denoiser"), self.rule.callbacks(model, self.text, self.strength)
        with watch_stock_loop(model.checkpoint.built_pipeline, denoiser, model.spec), callbacks_on(denoiser, callbacks):
            yield

    def describe(self) -> str:
        return "changes no weight but the guidance of each picture"

    def details(self) -> dict[str, Any]:
        kind = next(name for name, rule in GUIDANCE_RULES.items() if isinstance(self.rule, rule))
        told = {"text": self.text, "maps": list(self.maps), "strength": self.strength}
        return told | {"rule": kind, "settings": asdict(self.rule)}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "GuidanceEdit":
        """Invert `save`. Raises `EditError` if something is missing or has another type."""
        text = stored.details.get("text")
        require(isinstance(text, str), f"its text is {text!r}", EditError)
        kind: type = suggest(str(stored.details.get("rule")), GUIDANCE_RULES, "guidance rule")
        rule = kind(**stored.numbers("settings", kind))
        return cls(str(text), stored.texts("maps"), rule, strength=stored.number("strength"), origin=stored.origin)
