"""The common base of the views of Stable Diffusion 3, FLUX.1 and Chroma: joint transformers that predict a flow.

All read text as rows through one `context_embedder`; the first two read CLIP's pooled text through another map, with
the timestep.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ..family import TextEncoderSpec
from ..hooks.forward import with_soft_rows
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.tokenizer import TextPosition, TokenPosition
from ..text.vocabulary import input_embedding
from .pipeline_view import PipelineView

_STATES_MAP = "context_embedder.weight"


@dataclass
class MMDiTView(PipelineView):
    """Its text maps are one for the states and one for a pooled text, if any; a map does not include its bias."""

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        require(
            at != "pooled" or bool(self.spec.pooled_map),
            f"{self.family} models do not read pooled text: embed at a token position",
            ModelError,
        )
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
        name = _STATES_MAP if reads == "states" else self.spec.pooled_map
        return self._live_maps([name]) if name else {}

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts with the live encoders, padded as in the stock pipelines."""
        return self._condition(prompts)

    @abstractmethod
    def _condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning: ...

    def _read(self, prompts: Sequence[str] | SoftPrompts, encoder: TextEncoderSpec) -> tuple[Any, Tensor]:
        """Run a live encoder; also returns which tokens (b, l) are a text's own."""
        module, tokenizer = self.modules(encoder.part), self._tokenizer(encoder)
        if not isinstance(prompts, SoftPrompts):
            tokens = tokenizer(prompts)
            ids, mask = (torch.tensor(rows, device=self.device) for rows in (tokens.padded(), tokens.mask()))
            return _encoded(module, encoder, ids, mask)
        own = prompts if encoder.kind == self.spec.encoders[0].kind else prompts.t5
        number = [each for each in self.spec.encoders if each.kind == encoder.kind].index(encoder)
        message = f"prompts of token ids for {self.family} need the rows of {encoder.part}: give them for each encoder"
        require(own is not None and number < len(own.rows), message, ModelError)
        assert own is not None
        ids = tokenizer.pad_anew(own.ids).to(self.device)
        with with_soft_rows(input_embedding(self, encoder), own.at, own.rows[number]):
            return _encoded(module, encoder, ids, tokenizer.own_tokens(ids))

    @property
    def width(self) -> int:
        return int(self.checkpoint.config("transformer")["joint_attention_dim"])


def _encoded(module: Any, encoder: TextEncoderSpec, ids: Tensor, mask: Tensor) -> tuple[Any, Tensor]:
    masking = {"attention_mask": mask.long()} if encoder.is_masked else {}
    return module(ids, output_hidden_states=encoder.is_penultimate, **masking), mask


def set_even_sigmas(model: PipelineView, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
    """Set even sigmas from 1 to 1 / N for latents (c, h, w) that are packed two by two.

    The scheduler shifts them, by picture size if its config says so.
    """
    sigmas = np.linspace(1.0, 1 / steps, steps)
    mu = flow_shift(scheduler, shape[1] * shape[2] // 4, most=1.15)
    scheduler.set_timesteps(sigmas=sigmas, mu=mu, device=model.device)


def flow_shift(scheduler: Any, tokens: int, most: float) -> float:
    """The shift `mu` of a flow's sigmas for a picture of so many tokens; `most` is the pipeline's default maximum."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = scheduler.config
    mu: float = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", most),
    )
    return mu
