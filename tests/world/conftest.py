"""A little artwork, drawn here: every drawing of the table is a disc of its own colour with a dark left half."""

import pytest
import torch

from unconcept.worlds.table import concept_table
from world.artwork import SIZE, Artwork


@pytest.fixture(scope="session")
def artwork() -> Artwork:
    keys = [(icon, style) for entry in concept_table().objects for icon in entry.icons for style in entry.styles]
    across = torch.linspace(-1, 1, SIZE)
    disc = (across[None].square() + across[:, None].square() < 0.8).float()
    pixels = torch.zeros(len(keys), 4, SIZE, SIZE, dtype=torch.uint8)
    colours = torch.randint(80, 256, (len(keys), 3, 1, 1), generator=torch.Generator().manual_seed(0))
    shade = torch.where(across < 0, 0.5, 1.0)
    pixels[:, :3] = (colours * disc * shade).byte()
    pixels[:, 3] = (255 * disc).byte()
    words = {icon: [icon.replace("-", " ")] for icon, _ in keys}
    return Artwork(pixels, {key: i for i, key in enumerate(keys)}, words)
