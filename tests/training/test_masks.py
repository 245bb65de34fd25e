"""Where the object is: planted ones are found, and grids of attentions fit onto one another."""

from itertools import pairwise

import pytest
import torch
from PIL import Image

from tests import tiny, toy_text
from unconcept.core.errors import DataError, SettingsError
from unconcept.models.hooks.attention_maps import grid_sides
from unconcept.training.images.object_masks import (
    attention_mask,
    foreground_mask,
    mean_attention,
    object_mask,
    outside_mask_energy,
    resize_mask_to_grid,
)
from unconcept.training.images.user_images import load_user_images


@pytest.mark.parametrize("background", [1.0, 0.0, 0.4])
def test_what_stands_in_front_of_an_even_background(background) -> None:
    rng = torch.Generator().manual_seed(0)
    picture = background + 0.02 * torch.randn(1, 3, 32, 32, generator=rng)
    picture[:, 1, 8:20, 10:30] += 0.5
    found = foreground_mask(picture)
    wanted = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    wanted[..., 8:20, 10:30] = True
    assert torch.equal(found, wanted)
    assert foreground_mask(torch.full((1, 3, 8, 8), background)).all()


def test_each_picture_has_its_own_background() -> None:
    pictures = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    pictures[0, :, 3, 3] = pictures[1, :, 5, 5] = 0.5
    assert foreground_mask(pictures).flatten(1).nonzero().tolist() == [[0, 27], [1, 45]]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_names_some_cells_of_each_picture(family) -> None:
    view = tiny.shared(family)
    latents = torch.randn(3, *view.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(toy_text.LENGTH, dtype=torch.bool)
    tokens[2:5] = True
    found = attention_mask(view, latents, "a dog", tokens, torch.Generator().manual_seed(1))
    assert found.shape == (3, 1, *view.latent_shape[1:])
    assert found.any((1, 2, 3)).all()
    assert not found.all((1, 2, 3)).any()
    assert torch.equal(found, attention_mask(view, latents, "a dog", tokens, torch.Generator().manual_seed(1)))


def test_grids_of_places() -> None:
    places = torch.arange(64.0).view(2, 1, 32, 1)
    assert mean_attention(places, (8, 16)).shape == (2, 1, 4, 8)
    assert torch.equal(mean_attention(places, (8, 16)).flatten(), places.flatten())
    mask = torch.zeros(2, 1, 8, 16, dtype=torch.bool)
    mask[0, :, :4], mask[1, ..., 8:] = True, True
    small = resize_mask_to_grid(mask, 32).view(2, 4, 8)
    assert small[0].tolist() == [[True] * 8] * 2 + [[False] * 8] * 2
    assert small[1].tolist() == [[False] * 4 + [True] * 4] * 4


def test_maps_and_masks() -> None:
    """Two heads, two tokens, on grids of 2 x 4 and 1 x 2 under latents of 4 x 8."""
    probabilities = torch.rand(1, 2, 8, 2)
    seen = mean_attention(probabilities, (4, 8))
    assert torch.allclose(seen[0, 0, 1, 3], probabilities[0, :, 7].mean())
    assert seen.shape == (1, 1, 2, 4)
    fine, coarse = torch.tensor([[[[0.0, 0.2, 0.4, 1.0], [0.0, 0.0, 0.1, 2.0]]]]), torch.rand(1, 1, 1, 2)
    assert object_mask([fine, coarse], 16, 0.1)[0, 0].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]  # 0.1 of 2 is 0.2
    assert object_mask([coarse, fine, fine], 5, 0.5)[0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert object_mask([coarse], 16, 0.5).sum() == 1
    assert object_mask([torch.full((1, 1, 2, 2), 0.3)], 16, 0.5).all()


def test_masks_are_monotone_in_the_threshold_and_stay_binary() -> None:
    rng = torch.Generator().manual_seed(0)
    map_ = torch.rand(3, 1, 8, 8, generator=rng)
    masks = [object_mask([map_], 16, tau) for tau in (0.0, 0.1, 0.5, 1.0)]
    assert masks[0].all()
    assert all((fine <= coarse).all() for coarse, fine in pairwise(masks))
    assert masks[-1].sum() == 3  # the largest of each picture
    for places in (16, 64, 256, 1024):
        assert resize_mask_to_grid(masks[2], places).dtype == torch.bool
    assert torch.equal(resize_mask_to_grid(masks[2], 256)[0].view(16, 16)[::2, ::2], masks[2][0, 0])


def test_what_is_spilled() -> None:
    """Nothing under a mask of ones; the mean square under one of zeros; outside alone under any other."""
    out = {"a": torch.randn(2, 16, 3), "b": torch.randn(2, 4, 5)}
    assert outside_mask_energy(out, torch.ones(2, 1, 4, 4, dtype=torch.bool)) == 0
    whole = (out["a"].square().mean() + out["b"].square().mean()) / 2
    assert torch.allclose(outside_mask_energy(out, torch.zeros(2, 1, 4, 4, dtype=torch.bool)), whole)
    half = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    half[:, :, :2] = True
    assert torch.allclose(outside_mask_energy({"a": out["a"]}, half), out["a"][:, 8:].square().mean())


def test_a_grid_keeps_the_proportion() -> None:
    assert grid_sides((64, 96), 16 * 24) == (16, 24)
    with pytest.raises(SettingsError, match="form no grid"):
        grid_sides((4, 4), 7)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("dog,no.png,", "picture .*no.png: .*; give a PNG"),
        ("dog,text.png,", "cannot identify image file"),
        ("dog,small.png,", "has 8x8 pixels, the model's images 16x16"),
        ("dog,good.png,small.png", "8x8 pixels"),
        ("dog,../good.png,", "outside the folder"),
        ("dog,/etc/hosts,", "outside the folder"),
        ("cat,good.png,", "no picture of 'dog'"),
    ],
)
def test_given_pictures_that_are_none(rows, message, tmp_path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "own.csv").write_text(f"target,picture,mask\n{rows}\n")
    with pytest.raises(DataError, match=message):
        load_user_images(str(tmp_path / "own.csv"), "dog", (16, 16))


def test_a_table_without_its_columns(tmp_path) -> None:
    (tmp_path / "own.csv").write_text("target,picture\ndog,good.png\n")
    with pytest.raises(DataError, match=r"no column .'mask'"):
        load_user_images(str(tmp_path / "own.csv"), "dog", (16, 16))
