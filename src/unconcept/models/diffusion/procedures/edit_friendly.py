"""LEDITS++ (Brack et al., CVPR 2024, arXiv:2311.16711): a picture's own noise, and guided edits in a mask."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ....core.errors import require
from ...hooks.attention_maps import AttentionRecord, grid_sides, record_attention, text_attentions
from ...model_view import ModelView, SamplingStart
from ..callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from .registry import SamplingRequest, procedure

_COARSER = 4  # sides of the attention maps that are read, as a part of the latents': 16 of 64
_BLUR = 0.5  # standard deviation of the smoothing, in places of the maps, twice as wide as its name says


@procedure("edit-friendly")
@dataclass(frozen=True)
class EditFriendly:
    """Goes on from a picture's noised latents with the noise that leads back to it, and guides towards the prompt.

    Guidance is that of the stock pipeline, e_0 + s M (e - e_0), in a mask M of places: where attention to the words of
    the prompt is above a quantile, and, of those, where the two predictions differ most.
    """

    latents: Tensor  # (b, c, h, w) after `done` calls
    residuals: Tensor  # (b, N, c, h, w): what each step adds
    words: Tensor  # (b, l) bool: the text states of the prompt's words
    done: int
    steps: int
    guidance_scale: float
    masks: Literal["none", "attention", "intersect"] = "intersect"
    threshold: float = 0.9
    """Quantile above which a place is in a mask."""

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw on from the latents by DDPM's steps; noise, and the settings of other drawings, are not read."""
        start = SamplingStart(self.latents, self.done, self.residuals.transpose(0, 1))
        with record_attention(model, text_attentions(model)) as kept:

            def mask(at: SamplingStep) -> Tensor | None:
                return self._masked(at, kept)

            with callbacks_on(model.modules("denoiser"), SamplingCallbacks(predicted=mask)):
                return model.sample(asked.texts, start, self.steps, self.guidance_scale, "ddim")

    def _masked(self, at: SamplingStep, kept: AttentionRecord) -> Tensor | None:
        maps = [calls[-1] for calls in kept.values()]
        for calls in kept.values():
            calls.clear()
        if self.masks == "none":
            return None
        require(at.sides is not None, "masks of an edit need classifier-free guidance: give a guidance scale above 1")
        assert at.sides is not None
        empty, said = at.sides
        attended = attended_places(maps, self.words.to(said.device), (said.shape[2], said.shape[3]), self.threshold)
        toward = self.guidance_scale * (said - empty) * attended
        return empty + (toward * changed_places(toward, self.threshold) if self.masks == "intersect" else toward)


def attended_places(maps: list[Tensor], words: Tensor, sides: tuple[int, int], threshold: float) -> Tensor:
    """Mask (b, 1, h, w) of 0 and 1, from attention probabilities (2b or b, heads, p, l) to words (b, l) bool.

    Read are the maps whose sides are nearest to a quarter of the latents', averaged over heads and words.
    """
    places = min((each.shape[2] for each in maps), key=lambda p: abs(p * _COARSER**2 - sides[0] * sides[1]))
    weights = words.float() / words.sum(1, keepdim=True).clamp(min=1)
    rows = [each[-len(words) :].float().mean(1) @ weights[:, :, None] for each in maps if each.shape[2] == places]
    grid = torch.stack(rows).mean(0)[:, :, 0].unflatten(1, (1, *grid_sides(sides, places)))
    smooth = F.conv2d(F.pad(grid, (1, 1, 1, 1), mode="reflect"), _gaussian(grid))
    limit = smooth.flatten(1).quantile(threshold, dim=1)
    return F.interpolate((smooth >= limit[:, None, None, None]).to(maps[0]), sides)


def changed_places(guidance: Tensor, threshold: float) -> Tensor:
    """Mask (b, 1, h, w) of the places where |guidance| (b, c, h, w), summed over channels, is above its quantile."""
    strength = guidance.float().abs().sum(1, keepdim=True)
    limit = strength.flatten(1).quantile(threshold, dim=1)
    return (strength >= limit[:, None, None, None]).to(guidance)


def _gaussian(like: Tensor) -> Tensor:
    """The authors' kernel (1, 1, 3, 3)."""
    line = torch.exp(-((torch.arange(-1, 2, device=like.device, dtype=like.dtype) / (2 * _BLUR)) ** 2))
    kernel = line[:, None] * line
    return (kernel / kernel.sum())[None, None]
