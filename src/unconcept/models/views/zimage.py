"""The view of Z-Image: its transformer reads a list of captions of any length, and predicts from noise to picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model_view import Conditioning
from .llm import LlmTextView
from .mmdit import set_even_sigmas


@dataclass
class ZImageView(LlmTextView):
    """`embed` gives Qwen3's states before its last layer, after the norm that the transformer begins with."""

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0, which is the negative of what the transformer predicts; its time runs from 0, noise."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        t = timestep.to(latents.device).expand(len(latents))
        mask = torch.ones(given.states.shape[:2]) if given.mask is None else given.mask
        captions = [states[own.bool()] for states, own in zip(given.states, mask.to(latents.device), strict=True)]
        pictures = list(latents.unsqueeze(2))
        said = self.checkpoint.built_pipeline.transformer(pictures, (1000 - t) / 1000, captions, return_dict=False)[0]
        return -torch.stack(said).squeeze(2)

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Even sigmas from 1 to 1 / N, which the scheduler shifts."""
        set_even_sigmas(self, scheduler, steps, shape)

    def _as_mapped(self, states: Tensor) -> Tensor:
        return self._normed(states, float(self.checkpoint.config("transformer").get("norm_eps", 1e-5)))

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["cap_feat_dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents; the transformer has no size of its own, its autoencoder has."""
        config, vae = self.checkpoint.config("transformer"), self.checkpoint.config("vae")
        side = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
        return config["in_channels"], side, side
