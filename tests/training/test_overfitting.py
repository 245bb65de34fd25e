"""DOM and Random Erasing for classifiers, as their papers say them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unconcept.core.errors import SettingsError
from unconcept.training import TrainingOptions
from unconcept.training.images.overfitting import augment_learned, erase_rectangles, keep_unlearned, sample_losses


def toy():
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)), torch.randn(20, 4, generator=rng), torch.arange(20) % 3


def test_selection_is_in_evaluation_mode_and_leaves_no_trace() -> None:
    network, x, y = toy()
    assert torch.equal(sample_losses(network, x, y), sample_losses(network, x, y))
    assert network.training
    assert network[0].weight.grad is None


def test_removing_follows_the_samples_that_are_kept_over_the_whole_batch() -> None:
    network, x, y = toy()
    network.eval()
    natural = sample_losses(network, x, y)
    threshold = natural.median().item()
    kept = natural >= threshold
    losses = F.cross_entropy(network(x), y, reduction="none")
    (found,) = torch.autograd.grad(keep_unlearned(losses, natural, threshold), network[0].weight, retain_graph=True)
    (plain,) = torch.autograd.grad(losses[kept].sum() / 20, network[0].weight, retain_graph=True)
    assert 0 < int(kept.sum()) < 20
    assert torch.allclose(found, plain, atol=1e-7)
    assert torch.equal(keep_unlearned(losses, natural, 0.0), losses.mean())
    (none,) = torch.autograd.grad(keep_unlearned(losses, natural, float("inf")), network[0].weight)
    assert not none.any()


def test_augmenting_touches_learned_samples_alone_until_they_are_hard() -> None:
    network, x, y = toy()
    network.eval()
    natural, rng = sample_losses(network, x, y), torch.Generator().manual_seed(2)
    threshold = natural.median().item()

    def noise(own, rng):
        return own + 3 * torch.randn(own.shape, generator=rng)

    found = augment_learned(network, x, y, threshold, noise, rng, tries=50, share=0.0)
    easy = natural <= threshold
    assert torch.equal(found[~easy], x[~easy])
    assert bool((sample_losses(network, found[easy], y[easy]) >= threshold).all())
    same = augment_learned(network, x, y, threshold, lambda own, rng: own, rng, tries=2, share=0.5)
    assert torch.allclose(same, x)
    halves = augment_learned(network, x, y, 1e9, lambda own, rng: torch.zeros_like(own), rng, tries=2, share=0.5)
    assert torch.allclose(halves, x / 4)


def test_rectangles() -> None:
    x, rng = torch.rand(500, 3, 8, 8, generator=torch.Generator().manual_seed(3)) + 1, torch.Generator().manual_seed(4)
    before = x.clone()
    assert torch.equal(erase_rectangles(x, TrainingOptions(), rng), x)
    found = erase_rectangles(x, TrainingOptions(random_erasing=1.0, sl=0.25, sh=0.25, r1=1.0), rng, fill=0.5)
    gone = (found == 0.5).all(1)
    assert torch.equal(x, before)
    assert bool(((found == x) | (found == 0.5)).all())
    assert gone.flatten(1).sum(1).tolist() == [16] * 500
    corners = gone.flatten(1).float().argmax(1)
    counts = torch.bincount(8 * (corners // 8) + corners % 8, minlength=64).view(8, 8)
    assert int(counts[5:].sum() + counts[:, 5:].sum()) == 0
    expected = 500 / 25
    assert float(((counts[:5, :5] - expected) ** 2 / expected).sum()) < 43  # chi-square, 24 degrees, p = 0.01
    half = erase_rectangles(x, TrainingOptions(random_erasing=0.5, sh=0.25), rng)
    assert 200 < int((half == 0).flatten(1).any(1).sum()) < 300
    with pytest.raises(SettingsError, match="share 0 to 1"):
        augment_learned(nn.Identity(), x, x, 0.1, lambda own, rng: own, rng, share=2.0)
