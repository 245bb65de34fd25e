"""The view of PixArt-Sigma: every cross-attention reads T5's states of a text's own tokens after one projection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.tokenizer import TextPosition
from .pipeline_view import PipelineView

_PROJECTED_ROWS = 64  # rows in a matrix product; a fixed number, so that a row's bits do not depend on the others


@dataclass
class PixArtView(PipelineView):
    """`embed` gives T5's states after the caption projection, which `condition` leaves to the denoiser.

    At "all", it also contains the rows of padding, which the mask hides from every attention.
    """

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """(n, d) at a named position, (n, l, d) at "all"; the last subject token of "" is its end token."""
        if at == "pooled":
            raise ModelError(f"{self.family} models do not read pooled text: embed at a token position")
        if not texts:
            return torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        states = self._t5(self.spec.first_encoder).embed(texts, at)
        return self._projected(states.flatten(0, -2)).view(*states.shape[:-1], -1)

    def _projected(self, rows: Tensor) -> Tensor:
        """Apply the live projection to rows (n, d)."""
        weights, start = self.checkpoint.lazy_tensors(self.spec.denoiser), f"{self.spec.text_projection}."
        (w_1, b_1), (w_2, b_2) = (
            (weights[f"{start}{layer}.weight"].detach(), weights[f"{start}{layer}.bias"].detach())
            for layer in ("linear_1", "linear_2")
        )
        padded = F.pad(rows, (0, 0, 0, -len(rows) % _PROJECTED_ROWS))
        blocks = [
            F.linear(F.gelu(F.linear(part, w_1, b_1), approximate="tanh"), w_2, b_2)
            for part in padded.split(_PROJECTED_ROWS)
        ]
        return torch.cat(blocks)[: len(rows)]

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Key and value maps of the cross-attentions: 56 matrices in the published model."""
        return {} if reads == "pooled" else self._cross_attention_maps()

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts with the live encoder, with the mask for it and the denoiser."""
        if isinstance(prompts, SoftPrompts):
            raise ModelError(f"{self.family} cannot read prompts of token ids: give texts")
        tokens = self.tokenizer(prompts)
        ids, mask = (torch.tensor(rows, device=self.device) for rows in (tokens.padded(), tokens.mask()))
        states = self.modules(self.spec.first_encoder.part)(ids, attention_mask=mask)[0]
        return Conditioning(states, mask=mask)

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The predicted noise. The network's variance prediction is dropped, as in the pipeline."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        said: Tensor = self.checkpoint.built_pipeline.transformer(
            latents,
            encoder_hidden_states=given.states,
            encoder_attention_mask=given.mask,
            timestep=timestep.to(latents.device).expand(len(latents)),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return said[:, : latents.shape[1]]

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["cross_attention_dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.checkpoint.config("transformer")
        return config["in_channels"], config["sample_size"], config["sample_size"]
