"""A contact sheet gives back the pictures and texts that were put on it."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from tests.core.test_escapes import NASTY_NAMES
from unconcept.core.errors import DataError
from unconcept.report.contact_sheet import SheetPair, decode_sheet, encode_sheet
from unconcept.report.images import ImagePair

CHANGES = ((b'"width"', b'"wide" '), (b'"height": 4', b'"height": 0'), (b'"columns": 2', b'"columns": 0'))


def pairs(count: int, side: int, text: str = "fox") -> list[SheetPair]:
    made = []
    for seed in range(count):
        before, after = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))
        made.append(SheetPair(ImagePair(text, before, after, (text, ""), (True, False)), seed, seed % 2 == 0))
    return made


@pytest.mark.parametrize("count", [1, 8, 9])
def test_a_sheet_gives_back_what_was_put_on_it(count) -> None:
    put = pairs(count, 4)
    for old, new in zip(put, decode_sheet(encode_sheet(put)), strict=True):
        for side in ("before", "after"):
            assert torch.allclose(getattr(old.pair, side), getattr(new.pair, side), atol=0.5001 / 255)
        assert (new.seed, new.is_target) == (old.seed, old.is_target)
        assert (new.pair.text, new.pair.words, new.pair.shown) == ("fox", ("fox", ""), (True, False))


@pytest.mark.parametrize("text", [*NASTY_NAMES, "surrogate \udcff"])
def test_texts_come_back_as_they_are(text) -> None:
    (one,) = decode_sheet(encode_sheet(pairs(1, 2, text)))
    assert (one.pair.text, one.pair.words) == (text, (text, ""))


def test_large_pictures_become_small() -> None:
    sheet = Image.open(BytesIO(encode_sheet(pairs(9, 512))))
    assert sheet.size == (8 * 128, 2 * 2 * 128)


def test_anything_else_is_refused() -> None:
    buffer = BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    whole = encode_sheet(pairs(2, 4))
    assert all(old in whole for old, _ in CHANGES)
    for data in (
        b"",
        b"x",
        whole[:-40],
        whole[:60],
        buffer.getvalue(),
        *(whole.replace(*change) for change in CHANGES),
    ):
        with pytest.raises(DataError, match="no contact sheet of an audit"):
            decode_sheet(data)
