"""Erasers, masks and rates: the parts that Receler and SPM brought."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests import tiny
from tests.training.test_selectors import parameters
from unconcept.core.errors import SettingsError
from unconcept.models.parts import modules_named
from unconcept.models.probe import text_attentions
from unconcept.training import Erasers
from unconcept.training.masks import at_resolution, looked_at, object_mask, resized, spilled
from unconcept.training.rates import cosine_restarts

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)


def behind_attention(view, rank=4):
    return Erasers(view, modules_named(view, [f"{name}.to_out.0.weight" for name in text_attentions(view)]), rank)


@torch.no_grad()
def said(view):
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    return view.denoise(noise, torch.tensor([400]), ["dog"])


@pytest.mark.parametrize("family", EVERY)
def test_fresh_erasers_do_nothing_and_off_is_the_model_before(family) -> None:
    view = tiny.view(family)
    first, trained = said(view), behind_attention(view)
    with trained.on():
        assert torch.allclose(said(view), first, atol=1e-12)
        with torch.no_grad():
            for tensor in trained.tensors.values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        moved = said(view)
        assert not torch.allclose(moved, first, atol=1e-4)
        with trained.off():
            assert torch.allclose(said(view), first, atol=1e-12)
        assert not any(p.requires_grad for p in view.modules("denoiser").parameters())
    assert torch.allclose(said(view), first, atol=1e-12)
    with trained.edit({}).applied(view):
        assert torch.allclose(said(view), moved, atol=1e-12)


def test_an_eraser_is_behind_the_whole_attention() -> None:
    """attn2(x) + A(attn2(x)), with torch's own layers, whatever attention does inside."""
    view = tiny.view("sd1", torch.float32)
    trained = behind_attention(view)
    name, module = next(iter(text_attentions(view).items()))
    eraser = trained.erasers[f"{name}.to_out.0.weight"]
    with torch.no_grad():
        eraser.up.normal_(generator=torch.Generator().manual_seed(1))
        net = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 8))
        for own, part in zip(net.parameters(), vars(eraser).values(), strict=True):
            own.copy_(part)
        x, text = torch.randn(2, 64, 8), view.condition(["dog", "fox"]).states
        plain = module(x, encoder_hidden_states=text)
        with trained.on():
            assert torch.allclose(module(x, encoder_hidden_states=text), plain + net(plain), atol=1e-6)
        assert torch.allclose(trained.given[f"{name}.to_out.0.weight"], net(plain), atol=1e-6)


@pytest.mark.parametrize(("name", "count", "total"), [("sd1", 16, 3_209_408), ("sdxl", 70, None)])
def test_the_counts_of_the_card(name, count, total) -> None:
    found = [p for n, p in parameters(name).items() if n.endswith(".attn2.to_out.0.weight")]
    numbers = sum(2 * 128 * len(p) + 128 + len(p) for p in found)
    assert len(found) == count
    assert numbers == total if total else round(numbers / 1e6, 1) == 21.4


def test_begins_as_torchs_layers_do() -> None:
    """Within 1 / sqrt(d), of the variance of a uniform draw; the same seed the same."""
    view = tiny.view("sd1")
    first, again = behind_attention(view, 512), behind_attention(view, 512)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name])
        place, _, part = name.rpartition(".")
        if part.startswith("down"):
            bound = first.maps[place].out_features ** -0.5
            assert tensor.abs().max() <= bound
            assert float(tensor.detach().var()) == pytest.approx(bound**2 / 3, rel=0.2)
        else:
            assert not tensor.any()


def test_maps_and_masks() -> None:
    """Two heads, two tokens, on grids of 2 x 4 and 1 x 2 under latents of 4 x 8."""
    probabilities = torch.rand(1, 2, 8, 2)
    seen = looked_at(probabilities, (4, 8))
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
        assert set(resized(masks[2], places).unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(resized(masks[2], 256)[0, :, 0].view(16, 16)[::2, ::2], masks[2][0, 0])


def test_what_is_spilled() -> None:
    """Nothing under a mask of ones; the mean square under one of zeros; outside alone under any other."""
    out = {"a": torch.randn(2, 16, 3), "b": torch.randn(2, 4, 5)}
    assert spilled(out, torch.ones(2, 1, 4, 4)) == 0
    whole = (out["a"].square().mean() + out["b"].square().mean()) / 2
    assert torch.allclose(spilled(out, torch.zeros(2, 1, 4, 4)), whole)
    half = torch.zeros(2, 1, 4, 4)
    half[:, :, :2] = 1
    assert torch.allclose(spilled({"a": out["a"]}, half), out["a"][:, 8:].square().mean())


def test_a_grid_keeps_the_proportion() -> None:
    assert at_resolution((64, 96), 16 * 24) == (16, 24)
    with pytest.raises(SettingsError, match="no grid"):
        at_resolution((4, 4), 7)


def test_the_rate_rises_and_falls_as_often_as_it_is_told() -> None:
    """Against diffusers' own schedule."""
    from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup as theirs

    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rate = theirs(rule, 5, 30, 3), cosine_restarts(30, 5, 3)
    for step in range(32):
        assert rate(step) == pytest.approx(rule.param_groups[0]["lr"], abs=1e-12)
        rule.step()
        schedule.step()
    assert cosine_restarts(10, 0, 1)(0) == 1.0
    with pytest.raises(SettingsError, match="cycle"):
        cosine_restarts(10, 0, 0)
