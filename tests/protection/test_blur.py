"""The blur control is a Gaussian one, and the widest that keeps the budget."""

import pytest
import torch

from tests.protection.cases import budget, case
from unconcept.protection.blur import BlurControl, blurred

CONTRACT_SETTINGS = {"sigma": None}


def test_a_blur_keeps_a_flat_picture_and_spreads_a_point_by_its_deviation() -> None:
    assert torch.allclose(blurred(torch.full((3, 9, 9), 0.3), 1.0), torch.full((3, 9, 9), 0.3), atol=1e-6)
    point = torch.zeros(3, 33, 33)
    point[:, 16, 16] = 1
    row = blurred(point, 2.0)[0].sum(0)
    places = torch.arange(33) - 16.0
    assert float((row * places.square()).sum().sqrt()) == pytest.approx(2.0, rel=0.05)


def test_it_is_the_widest_within_the_budget() -> None:
    asked = case("sd1", budget=budget(0.02))
    error = (BlurControl().protect(asked) - asked.picture).square().mean().sqrt()
    assert 0.019 < error <= 0.02
