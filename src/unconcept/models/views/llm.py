"""The common base of the views of transformers that read a language model's states through one linear map."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError
from ..hooks.forward import with_soft_rows
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.t5_encoder import rms_norm
from ..text.tokenizer import TextPosition
from ..text.vocabulary import input_embedding
from .pipeline_view import PipelineView


@dataclass
class LlmTextView(PipelineView):
    """Its only text map is the spec's `states_map`, which does not include its bias.

    `embed` gives the inputs of that map: the language model's states, after the denoiser's own norm if there is one,
    which `condition` leaves to the denoiser. At "all", rows of padding that nothing reads are zeros.
    """

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """(n, d) at a named position, (n, l, d) at "all"; the last subject token of "" is the first after it."""
        if at == "pooled":
            raise ModelError(f"{self.family} models do not read pooled text: embed at a token position")
        if not texts:
            return torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        return self._as_mapped(self._llm(self.spec.first_encoder).embed(texts, at))

    def _as_mapped(self, states: Tensor) -> Tensor:
        """The inputs of the text map: the states themselves where the denoiser has no norm before it."""
        return states

    def _normed(self, states: Tensor, epsilon: float) -> Tensor:
        """Apply the denoiser's norm of text states, as it is now."""
        weight = self.checkpoint.lazy_tensors(self.spec.denoiser)[f"{self.spec.text_projection}.weight"]
        return rms_norm(states, weight.detach(), epsilon)

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        return {} if reads == "pooled" else self._live_maps([self.spec.states_map])

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts with the live encoder in the pipeline's template, padded to its length.

        If padding is not read, its states are zeros and there is a mask.
        """
        encoder = self.spec.first_encoder
        tokenizer, module = self._tokenizer(encoder), self.modules(encoder.part)
        soft = prompts if isinstance(prompts, SoftPrompts) else None
        ids = torch.tensor(tokenizer(prompts).padded()) if not isinstance(prompts, SoftPrompts) else prompts.ids
        cut, length = len(tokenizer.cut), ids.shape[1]
        whole = torch.cat([torch.tensor([tokenizer.cut] * len(ids), dtype=torch.long), ids.cpu()], 1).to(self.device)
        mask = (whole != tokenizer.pad).long()
        mask = mask.cummax(1).values if tokenizer.pads_left else mask.flip(1).cummax(1).values.flip(1)
        read = whole.shape[1] if tokenizer.reads_padding else int(mask.sum(1).max())
        with ExitStack() as stack:
            if soft is not None:
                at = soft.at + cut
                stack.enter_context(with_soft_rows(input_embedding(self, encoder), at, soft.rows[0]))
            given = {"input_ids": whole[:, :read], "attention_mask": mask[:, :read]}
            out: Any = module(**given, output_hidden_states=True, use_cache=False)
        states = torch.cat([out.hidden_states[k] for k in encoder.layers], -1)[:, cut:]
        if tokenizer.reads_padding:
            return Conditioning(states)
        own = mask[:, cut:]
        zeros = F.pad(states * own[:, : read - cut, None].to(states), (0, 0, 0, length - (read - cut)))
        return Conditioning(zeros, mask=own)
