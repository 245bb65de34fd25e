"""Projected ascent on pixels: every pixel stays within epsilon, and a step has the sign of the gradient."""

from dataclasses import replace

import torch

from tests.protection.cases import budget, case, quick
from unconcept.training import loss_gradient

CONTRACT_SETTINGS = {"iterations": 8, "samples": 16}


def test_no_pixel_moves_further_than_epsilon() -> None:
    asked = case("sd1", budget=budget(1.0))
    moved = (replace(quick("pixel-pgd"), epsilon=3 / 255).protect(asked) - asked.picture).abs()
    assert 2.9 / 255 < moved.max() <= 3 / 255 + 1e-6


def test_one_step_goes_up_the_loss_in_every_pixel() -> None:
    asked = case("sd1", budget=budget(1.0))
    found = replace(quick("pixel-pgd"), iterations=1).protect(asked)
    picture = asked.picture[None].clone().requires_grad_()
    loss = asked.learning_loss(16)(picture, torch.Generator().manual_seed(asked.seed))
    (gradient,) = loss_gradient(loss, [picture])
    wanted = (asked.picture + gradient[0].sign() / 255).clamp(0, 1)
    assert torch.allclose(found, wanted, atol=1e-6)
