"""Stable Diffusion 1.x, 2.x and SDXL: files on disk or a pipeline in memory, seen as a `ModelView`.

A view of files reads single tensors until something must be drawn or trained; only then is the pipeline built.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.config import UNET_PIPELINES, config_folder, pipeline_kind, unet_family
from ..checkpoint.pipeline import Pipeline
from ..checkpoint.validation import CROSS_ATTENTION_MAP, require_complete
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.schedulers import named_scheduler as named
from ..family import Family
from ..hooks.forward import with_soft_rows
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.clip_encoder import ClipTextEncoder, strip_text_model_prefix
from ..text.tokenizer import ClipTokenizer, TextPosition


@dataclass
class UNetView:
    """Built by `from_files` or `from_pipeline`. Text maps are the keys and values of every cross-attention."""

    name: str
    family: Family
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    original_weights: dict[str, Tensor] = field(default_factory=dict)  # weights before the edits now applied

    @classmethod
    def from_files(cls, source: Path, name: str, device: torch.device, dtype: torch.dtype) -> "UNetView":
        """A diffusers folder, or a single file in the original layout; `ModelError` unless it holds one of this view's
        families.
        """
        kind = pipeline_kind(config_folder(source), UNET_PIPELINES)
        checkpoint = Checkpoint("unet", device, dtype, source)
        family = unet_family(kind, checkpoint.config("unet"), checkpoint.config("text_encoder"))
        require_complete(checkpoint, family, name)
        return cls(name, family, checkpoint, device, dtype)

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "pipeline") -> "UNetView":
        """A loaded pipeline; it is used as it is, not copied."""
        checkpoint = Checkpoint("unet", pipeline.device, pipeline.unet.dtype, pipeline=pipeline)
        family = unet_family(type(pipeline).__name__, checkpoint.config("unet"), checkpoint.config("text_encoder"))
        require_complete(checkpoint, family, name)
        return cls(name, family, checkpoint, pipeline.device, pipeline.unet.dtype)

    @property
    def pipeline(self) -> Pipeline | None:
        """None until something had to be drawn or trained."""
        return self.checkpoint.pipeline

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """SDXL's two encoders stand side by side: (n, 2048) = 768 | 1280. Its pooled text is the second one's."""
        if at == "pooled":
            require(self.family == "sdxl", f"{self.family} models are told nothing of a text as a whole", ModelError)
            return self._encoders()[-1].pooled(texts)
        if not texts:
            return torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        return torch.cat([encoder.embed(texts, at) for encoder in self._encoders()], -1)

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Keys and values of the cross-attentions: 32 matrices in SD 1.x and 2.x, 140 in SDXL."""
        if reads == "pooled":
            return {}
        if self.pipeline is not None:
            return {
                f"unet.{name}": p
                for name, p in self.pipeline.unet.named_parameters()
                if CROSS_ATTENTION_MAP.search(name)
            }
        return self.reference(
            f"unet.{name}" for name in self.checkpoint.lazy_parameters("unet") if CROSS_ATTENTION_MAP.search(name)
        )

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """SDXL reads both encoders before their last layer, and the second one's pooled text besides."""
        soft = prompts if isinstance(prompts, SoftPrompts) else None
        found = []
        for number, part in enumerate(self._parts):
            module: Any = self.modules(part)
            ids = self._ids(prompts, number).to(self.device)
            with ExitStack() as stack:
                if soft is not None:
                    stack.enter_context(with_soft_rows(module.get_input_embeddings(), soft.at, soft.rows[number]))
                found.append(module(ids, output_hidden_states=self.family == "sdxl"))
        if self.family != "sdxl":
            return Conditioning(found[0][0])
        side = self.latent_shape[-1] * self.checkpoint.built_pipeline.vae_scale_factor
        states = torch.cat([out.hidden_states[-2] for out in found], -1)
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(states), dtype=states.dtype, device=self.device)
        return Conditioning(states, found[-1].text_embeds, sizes)

    def _ids(self, prompts: Sequence[str] | SoftPrompts, number: int) -> Tensor:
        """Padded ids (b, l) for one encoder. Tokenizers of a model cut texts alike and differ in their padding."""
        tokenizer = self._encoders()[number].tokenizer
        if not isinstance(prompts, SoftPrompts):
            return torch.tensor(tokenizer(prompts).padded())
        if number == 0:
            return prompts.ids
        after_end = (prompts.ids == tokenizer.end).cumsum(1) - (prompts.ids == tokenizer.end).long() > 0
        return torch.where(after_end, tokenizer.pad, prompts.ids)

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """Noise or v, as the model was trained."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        added = None if given.pooled is None else {"text_embeds": given.pooled, "time_ids": given.time_ids}
        prediction: Tensor = self.checkpoint.built_pipeline.unet(
            latents, timestep, encoder_hidden_states=given.states, added_cond_kwargs=added
        ).sample
        return prediction

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Noise is drawn by the caller, one picture at a time, so a picture knows nothing of its neighbours.

        `SettingsError` for more steps than the model has timesteps: schedulers differ in what they do then, from an
        error to nonsense.
        """
        text: dict[str, Any] = (
            {"prompt": list(prompts)} if not isinstance(prompts, Conditioning) else self._embeds(prompts)
        )
        pipeline, scaled = self.checkpoint.built_pipeline, noise.to(self.device, self.dtype)
        own = pipeline.scheduler
        count = own.config.num_train_timesteps
        require(0 < steps <= count, f"{steps} sampler steps: the model has {count} timesteps")
        pipeline.scheduler = own if sampler is None else named(sampler, own)
        try:
            result = pipeline(
                **text,
                latents=scaled,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="pt",
                return_dict=True,
            )
        finally:
            pipeline.scheduler = own
        images: Tensor = result.images.float().cpu()
        return images

    def _embeds(self, given: Conditioning) -> dict[str, Tensor]:
        """The pipeline's arguments for finished text states, guided away from the empty text as it does by itself."""
        empty = self.condition([""] * len(given.states))
        states, pooled = empty.states, empty.pooled
        if given.pooled is None or pooled is None:
            return {"prompt_embeds": given.states, "negative_prompt_embeds": states}
        if self.checkpoint.built_pipeline.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        found = {"prompt_embeds": given.states, "negative_prompt_embeds": states}
        return found | {"pooled_prompt_embeds": given.pooled, "negative_pooled_prompt_embeds": pooled}

    def modules(self, part: str) -> nn.Module:
        """A component of the pipeline by name; "denoiser" is the UNet."""
        module: nn.Module = getattr(self.checkpoint.built_pipeline, "unet" if part == "denoiser" else part)
        return module

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`...) as they were before any edit; read from the
        files where there are files.
        """
        return self.checkpoint.reference(names, self.original_weights, self.name)

    @property
    def streams(self) -> int:
        return 1

    @property
    def tokenizer(self) -> ClipTokenizer:
        return self._encoders()[0].tokenizer

    @property
    def tokenizers(self) -> tuple[ClipTokenizer, ...]:
        return tuple(self.checkpoint.tokenizer(part.replace("text_encoder", "tokenizer")) for part in self._parts)

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.of(self.checkpoint.built_pipeline.scheduler)

    @property
    def width(self) -> int:
        """d, the width of a text state."""
        return int(self.checkpoint.config("unet")["cross_attention_dim"])

    @property
    def widths(self) -> tuple[int, ...]:
        """768 in SD 1.x, 1024 in 2.x, 768 | 1280 in SDXL."""
        return tuple(int(encoder.config["hidden_size"]) for encoder in self._encoders())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents at the model's own size."""
        config = self.checkpoint.config("unet")
        size = config["sample_size"]
        return config["in_channels"], size, size

    @property
    def _parts(self) -> tuple[str, ...]:
        return UNET_PIPELINES["StableDiffusionXLPipeline" if self.family == "sdxl" else "StableDiffusionPipeline"]

    def _encoders(self) -> list[ClipTextEncoder]:
        return [self._encoder(part) for part in self._parts]

    def _encoder(self, part: str) -> ClipTextEncoder:
        tokenizer = self.checkpoint.tokenizer(part.replace("text_encoder", "tokenizer"))
        weights, config = strip_text_model_prefix(self.checkpoint.weights(part)), self.checkpoint.config(part)
        return ClipTextEncoder(tokenizer, weights, config, self.family == "sdxl", self.checkpoint.states(part))
