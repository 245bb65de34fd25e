"""The view of Qwen-Image: a joint transformer with a mask of the text, whose latents are packed two by two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..diffusion.packed_latents import pack_latents, unpack_latents
from ..model_view import Conditioning
from .llm import LlmTextView
from .mmdit import set_even_sigmas

_LATENT_SIDE = 128  # the pipeline's own; neither the transformer nor the autoencoder has a size
_NORM_EPSILON = 1e-6  # fixed in the transformer
_NEGATIVE_PROMPT = " "  # with which the model's page switches guidance on; the pipeline has no default


@dataclass
class QwenImageView(LlmTextView):
    """`embed` gives Qwen2.5-VL's last states of a prompt and what follows it, after the transformer's own norm."""

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        t = timestep.to(latents.device).expand(len(latents))
        states, mask = given.states, given.mask
        if mask is not None:  # Columns of padding alone change nothing.
            longest = int(mask.sum(1).max())
            states, mask = states[:, :longest], None if mask[:, :longest].all() else mask[:, :longest]
        h, w = (side // 2 for side in latents.shape[-2:])
        (packed,) = self.checkpoint.built_pipeline.transformer(
            hidden_states=pack_latents(latents),
            timestep=t.to(latents.dtype) / 1000,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, h, w)]] * len(latents),
            return_dict=False,
        )
        return unpack_latents(packed, h, w)

    def _unconditional(self, given: Conditioning) -> Conditioning:
        return self.condition([_NEGATIVE_PROMPT] * len(given.states))

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Even sigmas from 1 to 1 / N, which the scheduler shifts by picture size."""
        set_even_sigmas(self, scheduler, steps, shape)

    def _as_mapped(self, states: Tensor) -> Tensor:
        return self._normed(states, _NORM_EPSILON)

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["joint_attention_dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents before packing."""
        side = _LATENT_SIDE if self.pipeline is None else int(self.pipeline.default_sample_size)
        return self.checkpoint.config("transformer")["in_channels"] // 4, side, side
