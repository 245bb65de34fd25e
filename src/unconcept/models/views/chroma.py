"""The view of Chroma: FLUX's packed latents and positions, T5's rows and a mask of them, no pooled text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model_view import Conditioning, SoftPrompts
from .flux import FluxView


@dataclass
class ChromaView(FluxView):
    """`embed` gives T5's rows (n, d), computed from a text's own tokens; padding has rows too, which follow the text.

    The mask is 1 at a text's own tokens and one pad. The stock pipeline adds it to the logits of attention, so that it
    hides no row: every pad is read, a little less than the text.
    """

    def _condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        read, own = self._read(prompts, self.spec.first_encoder)
        states = read[0]
        places = torch.arange(own.shape[1], device=own.device)
        return Conditioning(states, mask=(places <= own.sum(1, keepdim=True)).to(states.dtype))

    def _own_inputs(self, given: Conditioning, places: int) -> dict[str, Tensor | None]:
        """The mask of text and picture, whose places are all 1."""
        mask = None if given.mask is None else F.pad(given.mask, (0, places), value=1.0)
        return {self.spec.text_mask_input: mask}
