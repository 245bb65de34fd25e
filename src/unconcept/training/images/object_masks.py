"""Where in a picture its object is: what stands in front of an even background, or where a denoiser looked for the
object's words.

Differs: MACE's authors ask Grounding DINO and SAM, networks of their own; these need none.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import require
from ...models import ModelView
from ...models.hooks.attention_maps import record_attention, text_attentions
from ..trajectories import noise_latents

_BACKGROUND_DIFFERENCE = 0.1  # of the range of a colour: further from the background's is something else
_ATTENTION_THRESHOLD = 0.5  # of the way from the least to the most attention of a picture
_NOISE_LEVEL = 0.3  # of all timesteps: where the object's shape is there and its words are still asked


def foreground_mask(pictures: Tensor) -> Tensor:
    """(b, 1, H, W) bool: pixels of pictures (b, 3, H, W) whose colour is not that of the edge, by its median.

    A picture that is nothing but background counts as a whole.
    """
    edge = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, :, 0], pictures[:, :, :, -1]], -1)
    background = edge.median(-1).values[..., None, None]
    return _or_all((pictures - background).abs().amax(1, keepdim=True) > _BACKGROUND_DIFFERENCE)


@torch.no_grad()
def attention_mask(model: ModelView, latents: Tensor, prompt: str, tokens: Tensor, rng: torch.Generator) -> Tensor:
    """(b, 1, h, w) bool: cells of clean latents (b, c, h, w) that look at the tokens (l,) bool of a prompt once noise
    is laid over.

    Mean over heads, tokens and cross-attentions of the text, laid over one another at the latents' size.
    """
    t = torch.full((len(latents),), int(_NOISE_LEVEL * len(model.schedule.alpha)))
    x_t, t, _ = noise_latents(model, latents, rng, t)
    with record_attention(model, text_attentions(model)) as kept:
        model.denoise(x_t, t, [prompt] * len(latents))
    size = latents.shape[-2], latents.shape[-1]
    maps = [
        F.interpolate(mean_attention(found[..., tokens], size), size, mode="bilinear") for (found,) in kept.values()
    ]
    mean = torch.stack(maps).mean(0)
    low, high = (mean.flatten(1).aminmax(dim=1)[i][:, None, None, None] for i in (0, 1))
    return _or_all(mean > low + _ATTENTION_THRESHOLD * (high - low))


def mean_attention(probabilities: Tensor, sides: tuple[int, int]) -> Tensor:
    """Mean over heads and tokens of (b, heads, p, l), as a map (b, 1, h, w) in the
    proportion of the latents' `sides`.
    """
    found = probabilities.mean((1, 3))
    mask: Tensor = found.unflatten(1, (1, *grid_sides(sides, found.shape[1])))
    return mask


def grid_sides(sides: tuple[int, int], places: int) -> tuple[int, int]:
    """Sides of a grid of so many places, in the proportion of the latents."""
    h = round((places * sides[0] / sides[1]) ** 0.5)
    require(h > 0 and places % h == 0, f"{places} places are no grid in the proportion of latents {sides}")
    return h, places // h


def object_mask(maps: Iterable[Tensor], side: int, threshold: float) -> Tensor:
    """(b, 1, h, w) bool, out of maps (b, 1, h, w) of several attentions.

    Those whose longer side is nearest to `side` are averaged, each picture's values stretched to 0 and 1, and cut at
    the threshold. A map that is the same everywhere names no place: its mask is true everywhere.
    """
    found = list(maps)
    best = min((max(each.shape[-2:]) for each in found), key=lambda own: abs(own - side))
    mean = torch.stack([each for each in found if max(each.shape[-2:]) == best]).mean(0)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return (high == low) | (mean - low >= threshold * (high - low))


def resize_mask_to_grid(mask: Tensor, places: int) -> Tensor:
    """A mask (b, 1, h, w) bool at the nearest cells of a grid of so many places, row by row: (b, p) bool."""
    sides = grid_sides((mask.shape[-2], mask.shape[-1]), places)
    return F.interpolate(mask.float(), sides, mode="nearest").flatten(1) > 0.5


def resize_mask_to_latents(mask: Tensor, latents: Tensor) -> Tensor:
    """A mask (b, 1, H, W) of pixels at the nearest cells of latents (b, c, h, w)."""
    h, w = latents.shape[-2:]
    on_grid: Tensor = resize_mask_to_grid(mask, h * w).unflatten(1, (1, h, w)).to(latents.device)
    return on_grid


def outside_mask_energy(outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Mean square over channels of each output (b, p, d), averaged over the places outside of the mask, over pictures
    and over outputs.
    """
    found = []
    for out in outputs.values():
        outside = ~resize_mask_to_grid(mask, out.shape[1])
        square = out.float().square().mean(2) * outside
        found.append((square.sum(1) / (outside.sum(1) + 1e-9)).mean())
    return torch.stack(found).mean()


def _or_all(mask: Tensor) -> Tensor:
    return mask | ~mask.flatten(1).any(1)[:, None, None, None]
