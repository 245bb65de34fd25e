"""Attention taken apart computes what it did, and rules around it nest and leave."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from unconcept.core.errors import ModelError
from unconcept.models.hooks.cross_attention import cross_attentions, is_null_text, mix_values, steer_attentions


def noise(view, count=2):
    return torch.randn(count, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)


@torch.no_grad()
def said(view, texts=("a dog", "a cat")):
    return view.denoise(noise(view, len(texts)), torch.tensor([500]), list(texts))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_rule_is_bitwise_the_stock_attention(family, dtype) -> None:
    view = tiny.view(family, dtype)
    before, seen = said(view), []

    def rule(reading, mix):
        seen.append(reading.attention)
        return mix(reading)

    own = cross_attentions(view, view.text_maps())
    with steer_attentions(own, rule):
        assert torch.equal(said(view), before)
    assert len(own) == len(set(own)) == len(seen) == len(view.text_maps()) / 2
    assert set(seen) == set(own)


def test_rules_nest_and_the_last_is_outermost() -> None:
    view = tiny.view("sd1")
    own, before = cross_attentions(view, view.text_maps()), said(view)
    processors = [module.processor for module in own]

    def halved(reading, mix):
        return mix(replace(reading, values=reading.values / 2))

    def turned(reading, mix):
        return -mix(reading)

    with steer_attentions(own, halved):
        once = said(view)
        with steer_attentions(own, turned):
            both = said(view)
        assert torch.equal(said(view), once)
        with pytest.raises(RuntimeError, match="stop"), steer_attentions(own, turned):
            raise RuntimeError("stop")
        assert torch.equal(said(view), once)
    with steer_attentions(own, turned), steer_attentions(own, halved):
        assert torch.allclose(said(view), both, atol=1e-12)
    with steer_attentions(own, lambda reading, mix: -mix_values(reading) / 2):
        assert torch.allclose(said(view), both, atol=1e-12)
    assert torch.equal(said(view), before)
    assert [module.processor for module in own] == processors


def test_another_structure_is_refused() -> None:
    view = tiny.view("sd1")
    with pytest.raises(ModelError, match=r"no down_blocks\.7\.attn2"):
        cross_attentions(view, ["unet.down_blocks.7.attn2.to_k.weight"])
    own = cross_attentions(view, view.text_maps())[0]
    own.norm_q = torch.nn.LayerNorm(4)
    with pytest.raises(ModelError, match="normalises its inputs or outputs"):
        cross_attentions(view, view.text_maps())


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_empty_text_is_known_by_its_states(family, dtype) -> None:
    view = tiny.view(family, dtype)
    null = tiny.view(family, torch.float32).embed([""], at="all")[0]
    with torch.no_grad():
        states = view.condition(["a", "", "zebra crossing", ""]).states
    states[3] = 0
    assert is_null_text(states, null).tolist() == [False, True, False, True]
    assert is_null_text(states[:, :3], null).tolist() == [False, False, False, True]
