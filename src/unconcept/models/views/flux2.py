"""The view of FLUX.2 dev and klein: three states of a language model side by side, latents in patches of four cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.sampler import is_guidance_distilled
from ..model_view import Conditioning, PromptGuidance
from .llm import LlmTextView

_DISTILLED_GUIDANCE = 4.0  # the pipeline's default, used for single predictions of a guidance-distilled FLUX.2


@dataclass
class Flux2View(LlmTextView):
    """`embed` gives rows (n, 3 * width) of three hidden states. Padding is read, and its states follow the text."""

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0; for a guidance-distilled FLUX.2 at the conditioning's guidance, or else its default."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        net, t = self.checkpoint.built_pipeline.transformer, timestep.to(latents.device).expand(len(latents))
        h, w = latents.shape[-2:]
        scale = given.guidance
        if scale is None:
            scale = torch.full((len(latents),), _DISTILLED_GUIDANCE, device=latents.device)
        said = net(
            hidden_states=latents.flatten(2).transpose(1, 2),
            timestep=t.to(latents.dtype) / 1000,
            guidance=scale if net.config.guidance_embeds else None,
            encoder_hidden_states=given.states,
            img_ids=_places(latents.device, 1, h, w, 1),
            txt_ids=_places(latents.device, 1, 1, 1, given.states.shape[1]),
        ).sample
        found: Tensor = said.transpose(1, 2).unflatten(2, (h, w))
        return found

    def guide(self, prompts: Sequence[str] | Conditioning, scale: float) -> PromptGuidance:
        """As in the stock pipelines: dev's has no negative side, a klein that is distilled to few steps no guidance."""
        pipeline = self.checkpoint.built_pipeline
        is_single = pipeline.config.get("is_distilled") or not hasattr(type(pipeline), "do_classifier_free_guidance")
        if is_single and not is_guidance_distilled(self):
            scale = 1.0
        return super().guide(prompts, scale)

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Even sigmas from 1 to 1 / N, which the scheduler shifts by the numbers of places and steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        mu = compute_empirical_mu(shape[1] * shape[2], steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=self.device)

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["joint_attention_dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents in patches; the size is its autoencoder's, 1024 pixels if published."""
        config, vae = self.checkpoint.config("transformer"), self.checkpoint.config("vae")
        side = vae["sample_size"] // 2 ** len(vae["block_out_channels"])
        return config["in_channels"], side, side


def _places(device: torch.device, *sides: int) -> Tensor:
    """Positions (n, 4) on a grid, by row."""
    return torch.cartesian_prod(*(torch.arange(side, device=device) for side in sides))
