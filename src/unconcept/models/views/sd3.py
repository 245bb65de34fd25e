"""The view of Stable Diffusion 3 and 3.5.

A text's rows are the concatenated states of two CLIPs, padded with zeros to T5's width, followed by T5's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model_view import Conditioning, SoftPrompts
from ..text.tokenizer import TokenPosition
from .mmdit import MMDiTView, flow_shift


@dataclass
class SD3View(MMDiTView):
    """`embed` gives two rows for each text (2n, d), CLIP's and then T5's; the pooled text is both CLIPs' (n, 2048)."""

    def _embed_states(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        *clips, last = self.spec.encoders
        clip = torch.cat([self._clip(encoder).embed(texts, at) for encoder in clips], -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        t5 = self._t5(last).embed(texts, at) if self._has(last) else self._no_t5(clip, at)
        return torch.cat([clip, t5], 1) if at == "all" else torch.stack([clip, t5], 1).flatten(0, 1)

    def _condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        *clips, last = self.spec.encoders
        found = [self._read(prompts, encoder)[0] for encoder in clips]
        clip = torch.cat([out.hidden_states[-2] for out in found], -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        t5 = self._read(prompts, last)[0][0] if self._has(last) else self._no_t5(clip, "all")
        return Conditioning(torch.cat([clip, t5], 1), torch.cat([out.text_embeds for out in found], -1))

    def _no_t5(self, like: Tensor, at: TokenPosition) -> Tensor:
        """Zeros in place of T5's states, for a model without T5."""
        length = self.spec.encoders[-1].length
        assert length is not None
        return like.new_zeros((len(like), length, self.width) if at == "all" else (len(like), self.width))

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        t = timestep.to(latents.device).expand(len(latents))
        prediction: Tensor = self.checkpoint.built_pipeline.transformer(
            hidden_states=latents, timestep=t, encoder_hidden_states=given.states, pooled_projections=given.pooled
        ).sample
        return prediction

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Spaced by the scheduler, and shifted by picture size if its config says so (3.5 medium)."""
        shift = {}
        if scheduler.config.get("use_dynamic_shifting"):
            patch = self.checkpoint.config("transformer")["patch_size"]
            shift = {"mu": flow_shift(scheduler, (shape[1] // patch) * (shape[2] // patch), most=1.16)}
        scheduler.set_timesteps(steps, device=self.device, **shift)

    @property
    def streams(self) -> int:
        return 2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.checkpoint.config("transformer")
        return config["in_channels"], config["sample_size"], config["sample_size"]
