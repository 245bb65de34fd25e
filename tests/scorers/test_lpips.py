"""LPIPS's form: zero for equal pictures, the formula written out, and the package itself where it is installed."""

import pytest
import torch
from safetensors.torch import save_file

from unconcept.core.errors import ModelError, SettingsError
from unconcept.evaluation.judging.judge import open_scorer
from unconcept.scorers.lpips import JudgeDistance, Lpips, layered_distance


def some(n: int = 4, seed: int = 0, side: int = 64) -> torch.Tensor:
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def test_equal_pictures_are_exactly_zero() -> None:
    assert torch.equal(JudgeDistance().compare(some(), some()), torch.zeros(4))


def test_blank_layers_do_not_divide_by_zero() -> None:
    maps = [torch.zeros(2, 3, 4, 4)]
    assert torch.equal(layered_distance(maps, maps), torch.zeros(2))


def test_the_formula_place_by_place() -> None:
    before, after = ([torch.randn(2, 3, 4, 5), torch.randn(2, 6, 2, 2)] for _ in range(2))
    wanted = []
    for i in range(2):
        total = 0.0
        for a, b in zip(before, after, strict=True):
            h, w = a.shape[-2:]
            places = [(a[i, :, y, x], b[i, :, y, x]) for y in range(h) for x in range(w)]
            total += sum(float((p / p.norm() - q / q.norm()).square().sum()) for p, q in places) / (h * w)
        wanted.append(total)
    assert layered_distance(before, after).tolist() == pytest.approx(wanted, rel=1e-5)


def test_symmetric_and_growing_with_the_change() -> None:
    scorer, before, noise = (
        JudgeDistance(),
        some(),
        torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
    )
    near, far = (scorer.compare(before, (before + s * noise).clamp(0, 1)) for s in (0.02, 0.2))
    assert (near > 0).all()
    assert (far > near).all()
    assert (far < 16).all()
    assert torch.allclose(scorer.compare(before, some(seed=2)), scorer.compare(some(seed=2), before))


def test_gradients_reach_the_pictures() -> None:
    after = some(seed=1).requires_grad_()
    JudgeDistance().compare(some(), after).sum().backward()
    assert after.grad.abs().sum() > 0


def test_sizes_must_agree() -> None:
    with pytest.raises(SettingsError, match="pairs of one size"):
        JudgeDistance().compare(some(4), some(3))


def test_the_package_over_a_trunk_on_disk(tmp_path) -> None:
    """A trunk of random weights: the package's own forward with the same weights says the same."""
    package = pytest.importorskip("lpips", exc_type=ImportError)
    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None)
    save_file(trunk.state_dict(), tmp_path / "alexnet.safetensors")
    scorer = open_scorer("lpips", str(tmp_path / "alexnet.safetensors"))
    assert torch.equal(scorer.compare(some(), some()), torch.zeros(4))
    taps, x = [], package.ScalingLayer()(torch.cat([some(), some(seed=1)]) * 2 - 1)
    for i, layer in enumerate(trunk.features):
        x = layer(x)
        if i in (1, 4, 7, 9, 11):
            taps.append(x / x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10))
    heads = scorer.net.lins
    slow = sum(head((tap[:4] - tap[4:]).square()).mean((1, 2, 3)) for head, tap in zip(heads, taps, strict=True))
    assert torch.allclose(scorer.compare(some(), some(seed=1)), slow, atol=1e-5)
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match="AlexNet"):
        Lpips(tmp_path / "broken.safetensors")
