"""Training pictures: drawn by the model itself, and shown at random sizes, with captions that say so (Custom Diffusion,
CVPR 2023; Concept Ablation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import ModelView
from ...models.diffusion.vae import encode_images
from ..token_search import normal_noise

IMAGE_BATCH = 8  # pictures drawn or encoded together
_SMALL_SCALES, _LARGE_SCALES = (1 / 3, 1.0), (1.2, 1.4)  # scales, drawn from the first range two times out of three
_FAR_PREFIXES, _NEAR_PREFIXES = ("a far away ", "very small "), ("zoomed in ", "close up ")
_FAR_BELOW = 0.6


def picture_seeds(seed: int, count: int) -> list[int]:
    """Of so many pictures; another seed shares no noise with this one."""
    return [seed * count + i for i in range(count)]


def generate_images(
    model: ModelView,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    sampler: str | None = None,
) -> Tensor:
    """Pictures (n, 3, H, W) in [0, 1] by the model as it now is, one a prompt, each from the noise of its own seed."""
    found = []
    for begin in range(0, len(prompts), IMAGE_BATCH):
        part = slice(begin, begin + IMAGE_BATCH)
        noise = normal_noise(model.latent_shape, [torch.Generator().manual_seed(seed) for seed in seeds[part]])
        found.append(model.sample(prompts[part], noise, steps, guidance_scale, sampler))
    return torch.cat(found)


@torch.no_grad()
def images_to_latents(model: ModelView, pictures: Tensor) -> Tensor:
    """Latents (n, c, h, w) of pictures, a few at once."""
    return torch.cat([encode_images(model, part) for part in pictures.split(IMAGE_BATCH)])


@dataclass(frozen=True)
class PlacedImage:
    """A picture (3, H, W) at another size on black or cut, where it is (1, h, w) in cells of the latents, and what to
    say of it.
    """

    picture: Tensor
    mask: Tensor
    prefix: str


def place_image(picture: Tensor, cells: int, rng: torch.Generator) -> PlacedImage:
    """A square picture at a random scale and place, half of them mirrored; `cells` is the side of the latents."""
    side = picture.shape[-1]
    low, high = _SMALL_SCALES if _uniform(rng) < 0.66 else _LARGE_SCALES
    size = max(cells // 4, round(side * (low + (high - low) * _uniform(rng))))
    mirrored = picture.flip(-1) if _uniform(rng) < 0.5 else picture
    scaled = F.interpolate(mirrored[None], (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    if size >= side:
        top, left = (_whole(size - side + 1, rng) for _ in range(2))
        prefix = _NEAR_PREFIXES[_whole(2, rng)] if size > side else ""
        return PlacedImage(scaled[:, top : top + side, left : left + side], torch.ones(1, cells, cells), prefix)
    top, left = (_whole(side - size + 1, rng) for _ in range(2))
    canvas, mask = torch.zeros_like(picture), torch.zeros(1, cells, cells)
    canvas[:, top : top + size, left : left + size] = scaled
    rows, columns = (_inside(start, start + size, side // cells, cells) for start in (top, left))
    mask[:, rows, columns] = 1
    return PlacedImage(canvas, mask, _FAR_PREFIXES[_whole(2, rng)] if size < _FAR_BELOW * side else "")


def _inside(start: int, stop: int, cell: int, cells: int) -> slice:
    """Cells that lie in the picture as a whole, short of one at each edge, since the encoder sees across it; at least
    one.
    """
    first = min(-(-start // cell) + 1, cells - 1)
    return slice(first, max(first + 1, stop // cell - 1))


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _whole(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=rng))
