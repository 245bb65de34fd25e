"""The discriminator against torch's own layers, and the surgery of two gradients."""

import pytest
import torch
from torch import nn

from tests import tiny
from unconcept.training.gradients.surgery import clipped_surgery, unit_conflict
from unconcept.training.images.discriminator import Discriminator, PatchNet


def test_it_is_patch_gan() -> None:
    """conv 4-64-128-256-512-1, batch norm on all but the first and last; logits of 64 x 64 latents are 3 x 3."""
    ours, layers, into = PatchNet(4, 64, seed=3), [], 4
    for i, out in enumerate((64, 128, 256, 512)):
        layers += [nn.Conv2d(into, out, 4, 2, 1, bias=i == 0), *([nn.BatchNorm2d(out)] if i else []), nn.LeakyReLU(0.2)]
        into = out
    net = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))
    with torch.no_grad():
        for p, own in zip(net.parameters(), ours.weights, strict=True):
            p.copy_(own)
    x = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    assert ours(x).shape == (2, 1, 3, 3)
    assert torch.allclose(ours(x), net(x), atol=1e-5)
    assert nn.BCEWithLogitsLoss()(ours(x), torch.zeros(2, 1, 3, 3)).item() == pytest.approx(0.69, abs=0.15)


@pytest.mark.parametrize(("side", "left"), [(8, 3), (16, 3), (32, 3), (64, 3), (128, 7)])
def test_smaller_latents_leave_as_many_patches(side, left) -> None:
    assert PatchNet(4, side)(torch.randn(2, 4, side, side)).shape == (2, 1, left, left)


def test_it_learns_and_goes_on_where_its_state_was_taken() -> None:
    view, rng = tiny.shared("sd1"), torch.Generator().manual_seed(0)
    critic = Discriminator(view, 1e-3)
    one, two = (torch.randn(4, *view.latent_shape, generator=rng, dtype=torch.float64) + i for i in (0.0, 0.5))
    first = [critic.learn(one, two) for _ in range(10)]
    assert first[-1] < 0.9 * first[0]
    other = Discriminator(view, 1e-3, seed=5)
    other.restore({name: t.clone() for name, t in critic.state().items()})
    assert critic.learn(one, two) == other.learn(one, two)
    assert torch.equal(critic.anchor_loss(one), other.anchor_loss(one))


def test_surgery_is_orthogonal_in_its_exact_form_alone() -> None:
    a, b = torch.tensor([3.0, -4.0]), torch.tensor([0.0, 2.0])
    theirs = clipped_surgery("one", "two", 1.0, 1e9, has_unit_product=True)({"one": [a], "two": [b]})[0]
    ours = clipped_surgery("one", "two", 1.0, 1e9)({"one": [a], "two": [b]})[0]
    assert ours.tolist() == [3.0, 0.0]
    assert theirs.tolist() == pytest.approx([3.0, -4.0 + 0.8])
    assert torch.allclose(unit_conflict(a / a.norm(), b), torch.tensor([0.6, 0.0]))
    for strength, second in ((0.0, b), (1.0, -b)):
        assert torch.equal(clipped_surgery("one", "two", strength, 1e9)({"one": [a], "two": [second]})[0], a)


def test_each_gradient_is_clipped_before() -> None:
    a, b = torch.tensor([3.0, -4.0]), torch.tensor([0.0, 2.0])
    (found,) = clipped_surgery("one", "two", 1.0, 1.0)({"one": [a], "two": [b]})
    assert torch.allclose(found, torch.tensor([0.6, 0.0]), atol=1e-6)
