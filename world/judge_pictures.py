"""The pictures that a judge learns from: scenes, plain or rebuilt by the autoencoder, augmented in the ways of two
families, and a tenth that shows nothing.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from unconcept.models.vision.judge_net import JudgeLabels
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import Artwork
from .captions import Captions
from .composition import SceneBatch, batch_of, compose
from .place import Place, generator, normal
from .scenes import Scene, scene_at
from .truth import NOT_ASKED, Truth, truth_of

LATENT_NOISE = {"A": 0.05, "B": 0.25}
RUNGS = (0, 2, 4)
CHUNK = 256  # scenes rebuilt at once
HOLE = 8  # pixels across what family B hides


@dataclass(frozen=True)
class Exam:
    """Scenes with their truth, and the same pictures rebuilt by the autoencoder, one set a family."""

    pixels: Tensor
    scenes: SceneBatch
    truth: Truth
    rebuilt: dict[str, Tensor]
    drawn: list[Scene]
    place: Place


def exam(
    artwork: Artwork, vae: AutoencoderKL, words: JudgeLabels, seed: int, size: int, families: str, place: Place
) -> Exam:
    """Scenes of all RUNGS, held-out pairs among them."""
    captions = [Captions(concept_table(), scene_words(), rung, everything=True) for rung in RUNGS]
    drawn = [scene_at(captions[i % len(captions)], seed, i) for i in range(size)]
    scenes = batch_of(artwork.index, drawn).to(place.device)
    pixels = artwork.pixels.to(place.device)
    rebuilt = {family: round_trip(vae, pixels, scenes, LATENT_NOISE[family], place) for family in families}
    return Exam(pixels, scenes, truth_of(drawn, words).to(place.device), rebuilt, drawn, place)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pixels: Tensor, scenes: SceneBatch, noise: float, place: Place) -> Tensor:
    """Pictures (n, 3, 64, 64) uint8 as the autoencoder rebuilds them from noised latents."""
    g = generator(7)
    out = []
    for part in torch.arange(len(scenes)).split(CHUNK):
        x = compose(pixels, scenes.rows(part.to(place.device)))
        with place.autocast():
            z = vae.encode(2 * x - 1).latent_dist.mean
            y = vae.decode(z + noise * normal(z.shape, g, place.device)).sample.float()
        out.append((y * 127.5 + 127.5).clamp(0, 255).round().byte())
    return torch.cat(out)


def uniform(g: torch.Generator, x: Tensor, low: float, high: float) -> Tensor:
    """One number a picture, (b, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=g)).to(x.device)


def moved(x: Tensor, g: torch.Generator, turn: float, shift: float, shear: float) -> Tensor:
    """Turned (degrees), slanted and shifted (in picture widths) a little; the rim is repeated outside."""
    angle, slant = uniform(g, x, -turn, turn).deg2rad().flatten(), uniform(g, x, -shear, shear).flatten()
    across, down = (uniform(g, x, -2 * shift, 2 * shift).flatten() for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([cos, slant - sin, across, sin, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def augment(x: Tensor, family: str, g: torch.Generator) -> Tensor:
    """Pictures (b, 3, 64, 64) in [0, 1], changed in the ways of one family."""
    if family == "A":
        x = moved(x, g, turn=0, shift=0.03, shear=0.1)
        for k in (3, 5):
            x = torch.where(uniform(g, x, 0, 1) < 0.25, F.avg_pool2d(F.pad(x, (k // 2,) * 4, "replicate"), k, 1), x)
        tint = 1 + 0.06 * torch.randn(len(x), 3, 1, 1, generator=g) + 0.1 * torch.randn(len(x), 1, 1, 1, generator=g)
        x = 1 - (1 - x) * tint.to(x.device)
        return (x + uniform(g, x, 0, 0.08) * normal(x.shape, g, x.device)).clamp(0, 1)
    x = moved(x, g, turn=6, shift=0.02, shear=0)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.where(uniform(g, x, 0, 1) < 0.3, coarse, x).clamp(0, 1) ** uniform(g, x, 0.8, 1.25)
    corner = torch.randint(x.shape[-1] - HOLE, (len(x), 2, 1), generator=g).to(x.device)
    inside = (torch.arange(x.shape[-1], device=x.device) - corner).div(HOLE, rounding_mode="floor") == 0
    hole = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(hole & (uniform(g, x, 0, 1) < 0.4), x[:, :, :1, :1], x)


def nothings(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures that show nothing: noise, plain, scrambled patches, and blends of several scenes."""
    n = len(x)
    noise = torch.rand(x.shape, generator=g).to(x.device)
    soft = F.interpolate(F.avg_pool2d(noise, 8), scale_factor=8, mode="bilinear")
    noise = torch.where(uniform(g, x, 0, 1) < 0.5, noise, soft)
    colour, gray = torch.rand(n, 3, 1, 1, generator=g).to(x.device), uniform(g, x, 0, 1)
    plain = torch.where(uniform(g, x, 0, 1) < 0.6, colour, gray).expand_as(x)
    side = 16 if torch.rand((), generator=g) < 0.5 else 8
    cells = x.unfold(2, side, side).unfold(3, side, side).reshape(n, 3, -1, side, side)
    cells = cells[:, :, torch.randperm(cells.shape[2], generator=g)]
    k = 64 // side
    scrambled = cells.view(n, 3, k, k, side, side).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    blend = (x + x.roll(1, 0) + x.roll(2, 0) + x.roll(3, 0)) / 4
    kinds = torch.stack([noise, plain, scrambled, blend])
    return kinds[torch.randint(4, (n,), generator=g), torch.arange(n)]


def batch(e: Exam, family: str, size: int, g: torch.Generator, words: JudgeLabels) -> tuple[Tensor, Truth]:
    """Augmented pictures with their truth; half of them rebuilt, the last tenth shows nothing."""
    pick = torch.randint(len(e.scenes), (size,), generator=g).to(e.pixels.device)
    clean = compose(e.pixels, e.scenes.rows(pick))
    x = torch.where(uniform(g, clean, 0, 1) < 0.5, e.rebuilt[family][pick].float() / 255, clean)
    empty = max(1, size // 10)
    x = torch.cat([augment(x[:-empty], family, g), nothings(x[-empty:], g)])
    told = e.truth.rows(pick)
    told.cells[-empty:], told.style[-empty:] = len(words.objects), len(words.styles)
    told.background[-empty:], told.count[-empty:] = NOT_ASKED, 0
    return x, told
