"""Erasers and rates: the parts that Receler and SPM brought."""

import pytest
import torch
from torch import nn

from tests import tiny
from tests.training.test_selectors import parameters
from unconcept.core.errors import SettingsError
from unconcept.models.hooks.attention_maps import text_attentions
from unconcept.models.hooks.modules import denoiser_modules
from unconcept.training import TrainableErasers
from unconcept.training.lr_schedules import cosine_restarts

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)


def behind_attention(view, rank=4):
    return TrainableErasers(
        view, denoiser_modules(view, [f"{name}.to_out.0.weight" for name in text_attentions(view)]), rank
    )


@torch.no_grad()
def said(view):
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    return view.denoise(noise, torch.tensor([400]), ["dog"])


@pytest.mark.parametrize("family", EVERY)
def test_fresh_erasers_do_nothing_and_off_is_the_model_before(family) -> None:
    view = tiny.view(family)
    first, trained = said(view), behind_attention(view)
    with trained.student():
        assert torch.allclose(said(view), first, atol=1e-12)
        with torch.no_grad():
            for tensor in trained.tensors.values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        moved = said(view)
        assert not torch.allclose(moved, first, atol=1e-4)
        with trained.teacher():
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
        with trained.student():
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
