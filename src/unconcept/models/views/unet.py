"""The view of Stable Diffusion 1.x, 2.x and SDXL, from files on disk or a pipeline in memory.

A view of files reads single tensors. The pipeline is built only when something must be drawn or trained.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ..hooks.forward import with_soft_rows
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.clip_encoder import ClipTextEncoder
from ..text.tokenizer import TextPosition
from .pipeline_view import PipelineView

_DISTILLED_GUIDANCE = 7.5  # the pipelines' default, for predictions of a guidance-distilled UNet without a scale


@dataclass
class UNetView(PipelineView):
    """Its text maps are the key and value maps of every cross-attention.

    The states of SDXL's two encoders are concatenated: (n, 2048) = 768 | 1280. Its pooled text is the second one's.
    """

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        if at == "pooled":
            has_pooled = self.spec.encoders[-1].gives_pooled
            require(has_pooled, f"{self.family} models do not read pooled text: embed at a token position", ModelError)
            return self._encoders()[-1].pooled(texts)
        if not texts:
            return torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        return torch.cat([encoder.embed(texts, at) for encoder in self._encoders()], -1)

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Key and value maps of the cross-attentions: 32 matrices in SD 1.x and 2.x, 140 in SDXL."""
        return {} if reads == "pooled" else self._cross_attention_maps()

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts. SDXL reads both encoders before their last layer, and the second one's pooled text."""
        soft = prompts if isinstance(prompts, SoftPrompts) else None
        found = []
        for number, encoder in enumerate(self.spec.encoders):
            module: Any = self.modules(encoder.part)
            ids = self._ids(prompts, number).to(self.device)
            with ExitStack() as stack:
                if soft is not None:
                    stack.enter_context(with_soft_rows(module.get_input_embeddings(), soft.at, soft.rows[number]))
                found.append(module(ids, output_hidden_states=encoder.is_penultimate))
        if not self.spec.encoders[-1].gives_pooled:
            return Conditioning(found[0][0])
        states = torch.cat([out.hidden_states[-2] for out in found], -1)
        return Conditioning(states, found[-1].text_embeds, self._sizes(len(states), states.dtype))

    def _sizes(self, rows: int, dtype: torch.dtype) -> Tensor:
        """SDXL's sizes and crop (rows, 6) of a whole picture of the model's own size."""
        side = self.latent_shape[-1] * self.checkpoint.built_pipeline.vae_scale_factor
        return torch.tensor([[side, side, 0, 0, side, side]] * rows, dtype=dtype, device=self.device)

    def _ids(self, prompts: Sequence[str] | SoftPrompts, number: int) -> Tensor:
        """Padded ids (b, l) for one encoder. The tokenizers of a model differ only in their padding."""
        tokenizer = self._encoders()[number].tokenizer
        if not isinstance(prompts, SoftPrompts):
            return torch.tensor(tokenizer(prompts).padded())
        return tokenizer.pad_anew(prompts.ids)

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The prediction of noise or v, as the model was trained; if guidance is distilled into it, guided."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        added = None if given.pooled is None else {"text_embeds": given.pooled, "time_ids": given.time_ids}
        pipeline = self.checkpoint.built_pipeline
        width, scale = pipeline.unet.config.time_cond_proj_dim, given.guidance
        if width is not None:
            scale = latents.new_full((len(latents),), _DISTILLED_GUIDANCE) if scale is None else scale
            scale = pipeline.get_guidance_scale_embedding(scale - 1, embedding_dim=width).to(latents)
        prediction: Tensor = pipeline.unet(
            latents, timestep, encoder_hidden_states=given.states, timestep_cond=scale, added_cond_kwargs=added
        ).sample
        return prediction

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts with the stock pipeline, which cuts them and knows its learned embeddings of words."""
        found = self.checkpoint.built_pipeline.encode_prompt(
            prompt=list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if len(found) == 2:
            return Conditioning(found[0])
        return Conditioning(found[0], found[2], self._sizes(len(prompts), found[0].dtype))

    def _unconditional(self, given: Conditioning) -> Conditioning:
        """The encoded empty text; in SDXL zeros, unless the pipeline's config says otherwise."""
        empty = self._encode([""] * len(given.states))
        if empty.pooled is None or not self.checkpoint.built_pipeline.config.force_zeros_for_empty_prompt:
            return empty
        return replace(empty, states=torch.zeros_like(empty.states), pooled=torch.zeros_like(empty.pooled))

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("unet")["cross_attention_dim"])

    @property
    def widths(self) -> tuple[int, ...]:
        """768 in SD 1.x, 1024 in 2.x, 768 | 1280 in SDXL."""
        return tuple(int(encoder.config["hidden_size"]) for encoder in self._encoders())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.checkpoint.config("unet")
        size = config["sample_size"]
        return config["in_channels"], size, size

    def _encoders(self) -> list[ClipTextEncoder]:
        return [self._clip(encoder) for encoder in self.spec.encoders]
