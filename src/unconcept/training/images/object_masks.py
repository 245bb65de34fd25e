"""Masks of an object in an image: from a plain background, or from a denoiser's attention to the object's words.

Differs: MACE's authors use Grounding DINO and SAM; these masks need no further network.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import ModelView
from ...models.hooks.attention_maps import grid_sides, record_attention, text_attentions
from ..trajectories import noise_latents

_BACKGROUND_DIFFERENCE = 0.1  # share of a colour's range: a larger difference is foreground
_ATTENTION_THRESHOLD = 0.5  # relative to an image's smallest (0) and largest (1) attention
_NOISE_LEVEL = 0.3  # share of all timesteps: the object has its shape, and its words still get attention


def foreground_mask(pictures: Tensor) -> Tensor:
    """Return (b, 1, H, W) bool: the pixels of images (b, 3, H, W) whose colour differs from the median of the edge.

    If an image is all background, its mask is True everywhere.
    """
    edge = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, :, 0], pictures[:, :, :, -1]], -1)
    background = edge.median(-1).values[..., None, None]
    return _or_all((pictures - background).abs().amax(1, keepdim=True) > _BACKGROUND_DIFFERENCE)


@torch.no_grad()
def attention_mask(model: ModelView, latents: Tensor, prompt: str, tokens: Tensor, rng: torch.Generator) -> Tensor:
    """Return (b, 1, h, w) bool: the cells of clean latents (b, c, h, w) that attend to a prompt's tokens (l,) bool.

    Noise is added first. Attention is averaged over heads, tokens and cross-attentions at the latents' size.
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
    """Average (b, heads, p, l) over heads and tokens to a map (b, 1, h, w) in the proportion of the latents."""
    found = probabilities.mean((1, 3))
    mask: Tensor = found.unflatten(1, (1, *grid_sides(sides, found.shape[1])))
    return mask


def object_mask(maps: Iterable[Tensor], side: int, threshold: float) -> Tensor:
    """Compute a mask (b, 1, h, w) bool from maps (b, 1, h, w) of several attentions.

    It averages the maps whose longer side is nearest to `side`, rescales each image's values to 0 to 1, and applies the
    threshold. A constant map has no location: its mask is True everywhere.
    """
    found = list(maps)
    best = min((max(each.shape[-2:]) for each in found), key=lambda own: abs(own - side))
    mean = torch.stack([each for each in found if max(each.shape[-2:]) == best]).mean(0)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return (high == low) | (mean - low >= threshold * (high - low))


def resize_mask_to_grid(mask: Tensor, places: int) -> Tensor:
    """Resize a mask (b, 1, h, w) bool to a grid with the given number of places, row by row: (b, p) bool."""
    sides = grid_sides((mask.shape[-2], mask.shape[-1]), places)
    return F.interpolate(mask.float(), sides, mode="nearest").flatten(1) > 0.5


def resize_mask_to_latents(mask: Tensor, latents: Tensor) -> Tensor:
    """Resize a mask (b, 1, H, W) of pixels to the cells of latents (b, c, h, w)."""
    h, w = latents.shape[-2:]
    on_grid: Tensor = resize_mask_to_grid(mask, h * w).unflatten(1, (1, h, w)).to(latents.device)
    return on_grid


def outside_mask_energy(outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return the mean square of outputs (b, p, d) outside the mask.

    It averages over channels, then over the places outside the mask, over images and over outputs.
    """
    found = []
    for out in outputs.values():
        outside = ~resize_mask_to_grid(mask, out.shape[1])
        square = out.float().square().mean(2) * outside
        found.append((square.sum(1) / (outside.sum(1) + 1e-9)).mean())
    return torch.stack(found).mean()


def _or_all(mask: Tensor) -> Tensor:
    return mask | ~mask.flatten(1).any(1)[:, None, None, None]
