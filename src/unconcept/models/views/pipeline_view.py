"""The common base of all views: a model's name, its files or pipeline, and its text encoders."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.library_errors import drawing_errors
from ..checkpoint.pipeline import Pipeline
from ..checkpoint.validation import require_complete
from ..diffusion.few_step import FewStepRecord, few_step_record
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.sampler import LoopOptions, Sampler, is_guidance_distilled
from ..diffusion.vae import finish_pictures
from ..families import PIPELINES, family_of_pipeline
from ..family import Config, FamilySpec, TextEncoderSpec
from ..layouts.unet import CROSS_ATTENTION_MAP
from ..model_view import Conditioning, PromptGuidance, SamplingStart, SoftPrompts, TextInput
from ..pipeline_checks import fixed_state, require_plain
from ..precision import DtypePolicy, drawing_in
from ..text.clip_encoder import ClipTextEncoder, strip_text_model_prefix
from ..text.llm_encoder import LlmEncoder
from ..text.state_rows import quoted_states
from ..text.t5_encoder import T5Encoder
from ..text.tokenizer import TextPosition, TextTokenizer, require_same_words

_MOST_CELLS = 1 << 16  # of a side


@dataclass
class PipelineView(ABC):
    """A model's files or pipeline as a `ModelView`. Make one with `from_files` or `from_pipeline`."""

    name: str
    spec: FamilySpec
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    original_weights: dict[str, Tensor] = field(default_factory=dict)
    """Weights from before the edits that are applied now."""
    drawing_dtype: torch.dtype | None = None
    """In which denoiser and autoencoder compute while pictures are drawn; None for `dtype`."""
    few_step: FewStepRecord | None = None
    """What a model of few steps allows, from its folder; None for one of many."""
    fixed: str = ""
    """Why no edit of weights can change it, as "its transformer has quantised weights"; "" if one can."""

    @classmethod
    def from_files(cls, spec: FamilySpec, source: Path, name: str, device: torch.device, policy: DtypePolicy) -> Self:
        """View a diffusers folder, or a single file in the original layout; `ModelError` if layers are missing."""
        checkpoint = Checkpoint(spec.denoiser, device, policy.computing, source)
        require_complete(checkpoint, spec, name)
        record = few_step_record(source)
        view = cls(name, spec, checkpoint, device, policy.computing, drawing_dtype=policy.drawing, few_step=record)
        if checkpoint.has("vae"):
            view._require_latent_shape()
        return view

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "pipeline", may_be_fixed: bool = False) -> Self:
        """View a loaded pipeline of one of this view's families, which is used as it is, not copied.

        `ModelError` if it does not compute with exactly its own weights, or lacks layers. If it `may_be_fixed`, its
        weights may be quantised or offloaded.
        """
        require_plain(pipeline, may_be_fixed=may_be_fixed)
        spec, fixed = pipeline_family(pipeline), fixed_state(pipeline)
        device = pipeline._execution_device if fixed else pipeline.device
        dtype = getattr(pipeline, spec.denoiser).dtype
        checkpoint = Checkpoint(spec.denoiser, device, dtype, pipeline=pipeline)
        require_complete(checkpoint, spec, name, bool(fixed))
        return cls(name, spec, checkpoint, device, dtype, fixed=fixed)

    def _require_latent_shape(self) -> None:
        """Raise `ModelError` unless the configs tell the size of a picture's latents."""
        message = f"{self.name}: the configs of its {self.spec.denoiser} and vae do not tell the size of its latents"
        try:
            shape = self.latent_shape
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # A config may hold anything.
            raise ModelError(f"{message} ({error!r}): give its own configs") from None
        is_size = all(isinstance(side, int) and 0 < side < _MOST_CELLS for side in shape)
        is_size = is_size and shape[-1] % self.spec.latent_patch == 0
        require(is_size, f"{message}, but {shape}: give its own configs", ModelError)

    @property
    def family(self) -> str:
        """The name of its family."""
        return self.spec.name

    @property
    def pipeline(self) -> Pipeline | None:
        """The built pipeline; None until something must be drawn or trained."""
        return self.checkpoint.pipeline

    @abstractmethod
    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """Text states at a named position (n * streams, d), or at "all" (n, l, d); "pooled" embeds the whole text."""

    @abstractmethod
    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Weights (o, d) of the linear maps whose input is the text."""

    @abstractmethod
    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts for the denoiser."""

    @abstractmethod
    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The denoiser's raw prediction."""

    def guide(self, prompts: Sequence[str] | Conditioning, scale: float) -> PromptGuidance:
        """Guidance of this scale as in the stock pipeline: away from its unconditional side, as an input, or none."""
        if self.few_step is not None:
            self.few_step.require_guidance(self.name, scale)
        given = prompts if isinstance(prompts, Conditioning) else self._encode(prompts)
        message = f"text states for {self.family} have no mask: give the conditioning that `condition` returns"
        require(given.mask is not None or not self.spec.first_encoder.is_masked, message, ModelError)
        if is_guidance_distilled(self):
            embedded = torch.full((len(given.states),), scale, dtype=torch.float32, device=self.device)
            return PromptGuidance(replace(given, guidance=embedded))
        if scale <= 1:
            return PromptGuidance(given)
        both = Conditioning.concatenate([self._unconditional(given), given])
        return PromptGuidance(both, scale, self.spec.guided_square)

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts as the stock pipeline does; `RequestError` for one that is too long, unless it is cut."""
        return self.condition(prompts)

    def _unconditional(self, given: Conditioning) -> Conditioning:
        """The rows from which the stock pipeline guides away: the encoded empty text."""
        return self.condition([""] * len(given.states))

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        scheduler.set_timesteps(steps, device=self.device)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        start: Tensor | SamplingStart,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Draw pictures in [0, 1] from the caller's noise, so that a picture does not depend on others in its batch.

        `SettingsError` if there are more steps than the model has timesteps, which schedulers answer with anything from
        an error to nonsense.
        """
        begin = SamplingStart(start) if isinstance(start, Tensor) else start
        given = begin.latents.to(self.device, self.dtype)
        extra = None if begin.residuals is None else begin.residuals.to(given)
        _, c, h, w = given.shape
        with self._drawing(), drawing_errors(self.name):
            run = Sampler(self, steps, sampler, 0.0 if extra is None else 1.0, shape=(c, h, w))
            latents = run.initial_latents(given) if isinstance(start, Tensor) else given
            focus = None
            if sampler == "amo" and not isinstance(prompts, Conditioning):
                focus = quoted_states(self, prompts)
            options = LoopOptions(residuals=extra, focus=focus)
            guidance = self.guide(prompts, guidance_scale)
            return finish_pictures(self, run.denoise(latents, guidance, begin.k, options=options))

    @contextmanager
    def _drawing(self) -> Iterator[Pipeline]:
        """Inside, the pipeline draws in the type for pictures."""
        pipeline = self.checkpoint.built_pipeline
        if self.fixed:  # It computes in the types that its layers choose.
            yield pipeline
            return
        with drawing_in(self.drawing_dtype or self.dtype, pipeline, self.modules("denoiser")):
            yield pipeline

    def modules(self, part: str) -> nn.Module:
        """A component of the pipeline by name; "denoiser" is the network to edit."""
        name = self.spec.denoiser if part == "denoiser" else part
        module: nn.Module = getattr(self.checkpoint.built_pipeline, name)
        return module

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`...) from before any edit, read from the files if there are any."""
        return self.checkpoint.reference(names, self.original_weights, self.name)

    @property
    def streams(self) -> int:
        return 1

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of the first rows of `embed` at "all"."""
        return self._tokenizer(self.spec.first_encoder)

    @property
    def tokenizers(self) -> tuple[TextTokenizer, ...]:
        own = [encoder for encoder in self.spec.encoders if self._has(encoder)]
        require_same_words(self.name, [self._tokenizer(encoder) for encoder in own if encoder.kind == "clip"])
        return tuple(map(self._tokenizer, own))

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.of(self.checkpoint.built_pipeline.scheduler)

    @property
    @abstractmethod
    def width(self) -> int:
        """d, the width of a text state."""

    @property
    def widths(self) -> tuple[int, ...]:
        """One width, if the rows of all encoders are in one space."""
        return (self.width,)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents at the model's own size."""

    def _live_maps(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Current weights of the denoiser, by full name."""
        if self.pipeline is None:
            return self.reference(f"{self.spec.denoiser}.{name}" for name in names)
        net = self.modules("denoiser")
        return {f"{self.spec.denoiser}.{name}": net.get_parameter(name) for name in names}

    def _cross_attention_maps(self) -> Mapping[str, Tensor]:
        """Key and value maps of every cross-attention, without biases."""
        names = self.checkpoint.lazy_parameters(self.spec.denoiser)
        if self.pipeline is not None:
            names = dict(self.modules("denoiser").named_parameters())
        return self._live_maps(name for name in names if CROSS_ATTENTION_MAP.search(name))

    def _has(self, encoder: TextEncoderSpec) -> bool:
        return not encoder.is_optional or self.checkpoint.has(encoder.part)

    def _tokenizer(self, encoder: TextEncoderSpec) -> TextTokenizer:
        return self.checkpoint.tokenizer(encoder)

    def _clip(self, encoder: TextEncoderSpec) -> ClipTextEncoder:
        weights = strip_text_model_prefix(self.checkpoint.weights(encoder.part))
        config, states = self.checkpoint.config(encoder.part), self.checkpoint.states(encoder.part)
        return ClipTextEncoder(self._tokenizer(encoder), weights, config, encoder.is_penultimate, states)

    def _t5(self, encoder: TextEncoderSpec) -> T5Encoder:
        weights, config = self.checkpoint.lazy_tensors(encoder.part), self.checkpoint.config(encoder.part)
        return T5Encoder(self._tokenizer(encoder), weights, config, self.checkpoint.states(encoder.part))

    def _llm(self, encoder: TextEncoderSpec) -> LlmEncoder:
        weights, config = self.checkpoint.lazy_tensors(encoder.part), self.checkpoint.config(encoder.part)
        states = self.checkpoint.states(encoder.part)
        return LlmEncoder(self._tokenizer(encoder), weights, config, encoder.layers, states)


def pipeline_family(pipeline: Pipeline) -> FamilySpec:
    """The family of a pipeline in memory; `ModelError` if it is not supported."""
    kind = type(pipeline).__name__
    require(kind in PIPELINES, f"the pipeline is a {kind}; supported are {', '.join(PIPELINES)}", ModelError)

    def config(part: str) -> Config:
        own = getattr(pipeline, part).config
        found: Config = own.to_dict() if hasattr(own, "to_dict") else own
        return found

    return family_of_pipeline(kind, config)
