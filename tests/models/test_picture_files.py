"""A user's pictures: brought to the model's size, or refused in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from unconcept.core.errors import DataError
from unconcept.models.diffusion.vae import picture_size
from unconcept.models.images import read_picture, read_picture_folder

SIDE = 16  # of what the tiny models draw


def drawn(path, width: int, height: int, seed: int = 0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_size_is_what_the_pipeline_draws(family) -> None:
    view = tiny.shared(family)
    noise = torch.zeros(1, *view.latent_shape)
    assert picture_size(view) == tuple(view.sample(["a"], noise, 1, 1.0).shape[2:]) == (SIDE, SIDE)


def test_pictures_come_by_name_at_the_models_size(tmp_path) -> None:
    """One of the very size is as it is; a wide one is scaled by its height, its sides are cut."""
    drawn(tmp_path / "b.PNG", SIDE, SIDE, 1)
    drawn(tmp_path / "a.jpg", 4 * SIDE, 2 * SIDE, 2)
    (tmp_path / ".hidden").write_text("no picture")
    found = read_picture_folder(tmp_path, tiny.shared("sd1"), 2)
    assert found.shape == (2, 3, SIDE, SIDE)
    assert torch.equal(found[1], read_picture(tmp_path / "b.PNG"))
    middle = read_picture(tmp_path / "a.jpg")[:, :, SIDE : 3 * SIDE].mean()
    assert found[0].mean() == pytest.approx(float(middle), abs=0.01)


def test_a_turned_photograph_is_upright(tmp_path) -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:5] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    found = read_picture(tmp_path / "p.png")
    assert found.shape == (3, 30, 20)
    assert found[:, :, -5:].min() == 1.0


def test_what_is_no_set_of_pictures(tmp_path) -> None:
    view = tiny.shared("sd1")

    def said(words: str, least: int = 1) -> None:
        with pytest.raises(DataError, match=words) as caught:
            read_picture_folder(folder, view, least)
        assert "\n" not in str(caught.value)

    folder = tmp_path / "pictures"
    said("the folder does not exist")
    folder.mkdir()
    said("has 0, give at least 1")
    drawn(folder / "a.png", SIDE, SIDE)
    said("has 1, give at least 2", 2)
    Image.new("RGB", (SIDE, SIDE), (200, 0, 0)).save(folder / "red.png")
    said(r"1 of 2 are of one colour and show nothing, \['red\.png'\] first")
    (folder / "red.png").unlink()
    drawn(folder / "b.png", SIDE, SIDE - 1)
    said("b.png has 16x15 pixels, but the model draws 16x16")
    (folder / "b.png").write_bytes(b"no picture at all")
    said("b.png: cannot identify image")
    drawn(folder / "b.png", SIDE, SIDE).write_bytes((folder / "b.png").read_bytes()[:200])
    said("picture .*b.png")
    (folder / "b.png").rename(folder / "b.txt")
    said("b.txt is not a picture")
    (folder / "b.txt").unlink()
    (folder / "a.d").mkdir()
    said("a.d is not a picture")


def test_too_many_are_not_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("unconcept.models.images._MOST_PICTURES", 1)
    for name in ("a.png", "b.png"):
        drawn(tmp_path / name, SIDE, SIDE)
    with pytest.raises(DataError, match="at most 1"):
        read_picture_folder(tmp_path, tiny.shared("sd1"), 1)
