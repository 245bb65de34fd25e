"""The common base of the views of Stable Diffusion 3 and FLUX.1: joint transformers that predict a flow.

Both read text as rows through one `context_embedder`, and CLIP's pooled text through another map, with the timestep.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError, SettingsError, require
from ..checkpoint.library_errors import drawing_errors
from ..family import TextEncoderSpec
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.tokenizer import TextPosition, TokenPosition
from .pipeline_view import PipelineView

_STATES_MAP = "context_embedder.weight"


@dataclass
class MMDiTView(PipelineView):
    """Its text maps are one for the states and one for the pooled text; a map does not include its bias."""

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        if not texts:
            width = self.checkpoint.config("transformer")["pooled_projection_dim"] if at == "pooled" else self.width
            return torch.empty(0, width, dtype=self.dtype, device=self.device)
        if at == "pooled":
            encoders = [encoder for encoder in self.spec.encoders if encoder.gives_pooled]
            return torch.cat([self._clip(encoder).pooled(texts) for encoder in encoders], -1)
        return self._embed_states(texts, at)

    @abstractmethod
    def _embed_states(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        """The inputs of `context_embedder`, at "all" or a named position."""

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        return self._live_maps([_STATES_MAP if reads == "states" else self.spec.pooled_map])

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts with the live encoders, padded and without a mask as in the stock pipelines."""
        if isinstance(prompts, SoftPrompts):
            raise ModelError(
                f"{self.family} tokenizes a text differently for CLIP and for T5, so it cannot read prompts of token"
                " ids: give texts"
            )
        return self._condition(prompts)

    @abstractmethod
    def _condition(self, prompts: Sequence[str]) -> Conditioning: ...

    def _read(self, prompts: Sequence[str], encoder: TextEncoderSpec) -> Any:
        """Run a live encoder."""
        ids = torch.tensor(self._tokenizer(encoder)(prompts).padded(), device=self.device)
        return self.modules(encoder.part)(ids, output_hidden_states=encoder.is_penultimate)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Draw pictures, guided away from the empty text if the scale is above 1.

        A guidance-distilled FLUX gets the scale as an input instead.
        """
        require(
            sampler is None,
            f"sampler {sampler!r} is not defined for {self.family} models: leave it out to use their own",
            SettingsError,
        )
        pipeline = self.checkpoint.built_pipeline
        text = self._given(prompts, "")
        if guidance_scale > 1 and not self._is_distilled:
            text |= self._given([""] * len(noise), "negative_")
        height, width = (side * pipeline.vae_scale_factor for side in noise.shape[-2:])
        with self._drawing(), drawing_errors(self.name):
            result = pipeline(
                **text,
                **{self._guidance_argument: guidance_scale},
                height=height,
                width=width,
                latents=self._packed(noise.to(self.device, self.dtype)),
                num_inference_steps=steps,
                max_sequence_length=self.spec.encoders[-1].length,
                output_type="pt",
            )
        images: Tensor = result.images.float().cpu()
        return images

    def _given(self, prompts: Sequence[str] | Conditioning, side: str) -> dict[str, Tensor | None]:
        """The pipeline's arguments for prompts, as text states, so that a prompt that is too long is an error."""
        given = prompts if isinstance(prompts, Conditioning) else self.condition(prompts)
        return {f"{side}prompt_embeds": given.states, f"{side}pooled_prompt_embeds": given.pooled}

    @property
    def _is_distilled(self) -> bool:
        """Whether a single prediction is already guided."""
        return False

    @property
    def _guidance_argument(self) -> str:
        return "guidance_scale"

    def _packed(self, latents: Tensor) -> Tensor:
        """Latents in the form that the pipeline takes."""
        return latents

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["joint_attention_dim"])
