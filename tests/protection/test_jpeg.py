"""The JPEG control is the strongest that keeps the budget."""

import torch

from tests.protection.cases import budget, case
from unconcept.protection import protect_picture
from unconcept.protection.jpeg import JpegControl, compress

CONTRACT_SETTINGS = {"quality": None}


def test_the_next_worse_quality_would_exceed_the_budget() -> None:
    asked = case("sd1", budget=budget(0.05))
    found = JpegControl().protect(asked)
    quality = next(q for q in range(1, 96) if torch.equal(compress(asked.picture, q), found))
    assert quality > 1
    assert (found - asked.picture).square().mean().sqrt() <= 0.05
    assert (compress(asked.picture, quality - 1) - asked.picture).square().mean().sqrt() > 0.05


def test_a_quality_that_does_not_keep_it_is_mixed_with_the_picture() -> None:
    asked = case("sd1", budget=budget(0.005))
    found = protect_picture(JpegControl(quality=1), asked)
    assert 0 < (found - asked.picture).square().mean().sqrt() <= 0.005
