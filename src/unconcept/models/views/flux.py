"""The view of FLUX.1: it reads T5's rows, and CLIP's pooled text with the timestep. Latents are packed two by two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.packed_latents import pack_latents, unpack_latents
from ..model_view import Conditioning, SoftPrompts
from ..text.tokenizer import TokenPosition
from .mmdit import MMDiTView, set_even_sigmas

_DISTILLED_GUIDANCE = 3.5  # FluxPipeline's default, used for single predictions of a guidance-distilled FLUX


@dataclass
class FluxView(MMDiTView):
    """`embed` gives T5's rows (n, d); the pooled text is CLIP's (n, 768)."""

    def _embed_states(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        return self._t5(self.spec.first_encoder).embed(texts, at)

    def _condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        clip, t5 = self.spec.encoders
        (read, _), (states, _) = self._read(prompts, clip), self._read(prompts, t5)
        return Conditioning(states[0], read.pooler_output)

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0; for a guidance-distilled FLUX at the conditioning's guidance, or else its default."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        net, t = self.checkpoint.built_pipeline.transformer, timestep.to(latents.device).expand(len(latents))
        h, w = (side // 2 for side in latents.shape[-2:])
        at = torch.cartesian_prod(*(torch.arange(n, dtype=latents.dtype, device=latents.device) for n in (1, h, w)))
        packed = net(
            hidden_states=pack_latents(latents),
            timestep=t.to(latents.dtype) / 1000,
            encoder_hidden_states=given.states,
            img_ids=at,
            txt_ids=at.new_zeros(given.states.shape[1], 3),
            **self._own_inputs(given, h * w),
        ).sample
        return unpack_latents(packed, h, w)

    def _own_inputs(self, given: Conditioning, places: int) -> dict[str, Tensor | None]:
        """The transformer's inputs besides latents, timestep, states and positions."""
        scale = given.guidance
        if scale is None:
            scale = torch.full((len(given.states),), _DISTILLED_GUIDANCE, device=given.states.device)
        is_distilled = self.checkpoint.built_pipeline.transformer.config.guidance_embeds
        return {"guidance": scale if is_distilled else None, "pooled_projections": given.pooled}

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Even sigmas from 1 to 1 / N, which the scheduler shifts, by picture size if its config says so."""
        set_even_sigmas(self, scheduler, steps, shape)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents before packing.

        The transformer has no size of its own. That of its autoencoder is 1024 pixels in the published models, the
        pipeline's default.
        """
        config, vae = self.checkpoint.config("transformer"), self.checkpoint.config("vae")
        side = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
        return config["in_channels"] // 4, side, side
