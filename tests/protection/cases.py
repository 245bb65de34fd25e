"""A small case for every family, and settings under which a protection takes a moment, from the protections' tests."""

from functools import cache
from pathlib import Path

import torch

from tests import tiny
from tests.contract_settings import contract_settings
from unconcept.core.settings import build_settings
from unconcept.models.diffusion.vae import picture_size
from unconcept.protection import Protection, ProtectionCase, protections
from unconcept.scorers.pixels import PixelDistance
from unconcept.training.perturbation.budget import ChangeBudget, in_8_bits

QUICK = contract_settings(Path(__file__).parent)
MOST = 0.05


@cache
def model(family: str):
    view = tiny.view(family, torch.float32)
    view.condition(["a"])  # transformers hangs hooks of its own the first time it is asked for hidden states
    return view


def budget(most: float = MOST, psnr: float = 0.0) -> ChangeBudget:
    return ChangeBudget(PixelDistance().compare, "pixels", "", most, psnr)


def picture_of(family: str, seed: int = 0) -> torch.Tensor:
    """Smooth, as pictures are."""
    height, width = picture_size(model(family))
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return in_8_bits(torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic"))[0]


def case(family: str, seed: int = 0, **more: object) -> ProtectionCase:
    return ProtectionCase(model(family), picture_of(family), **{"budget": budget(), "seed": seed, **more})


def quick(name: str) -> Protection:
    return build_settings(protections[name].settings, QUICK[name])
