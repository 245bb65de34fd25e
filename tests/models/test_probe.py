"""Probabilities are those that attention computed with, in every family, and nothing it computes changes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from unconcept.models.hooks.attention_maps import record_attention, text_attentions
from unconcept.models.hooks.cross_attention import steer_attentions

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
TEXTS = ["a dog", "red fox"]


def asked(view, given=None):
    noise = torch.randn(2, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    return view.denoise(noise, torch.tensor([500, 300]), given or TEXTS)


@pytest.mark.parametrize("family", EVERY)
def test_are_the_softmax_of_what_attention_was_given(family, monkeypatch) -> None:
    """Queries and keys taken where torch gets them; joint attention puts the picture first in SD3 and last in FLUX."""
    view, own, given = tiny.view(family), F.scaled_dot_product_attention, []

    def watched(query, key, value, *more, **named):
        given.append(torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1))
        return own(query, key, value, *more, **named)

    places, order = text_attentions(view), []
    for name, module in places.items():
        module.register_forward_pre_hook(lambda module, args, name=name: order.append(name))
    with torch.no_grad():
        states = view.condition(TEXTS)
        before = asked(view, states)
        order.clear()
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        with record_attention(view, places) as kept:
            after = asked(view, states)
    l, p = states.states.shape[1], {64, 16}
    if family in tiny.FAMILIES:
        wanted = [found for found in given if found.shape[-1] == l]
    else:
        both = [found for found in given if found.shape[-1] > l and found.shape[1] == 2][: len(places)]
        wanted = [found[..., :-l, -l:] if family == "sd3" else found[..., l:, :l] for found in both]
    assert len(kept) == len(wanted) == len(places) > 0
    assert torch.allclose(after, before, atol=1e-12)
    for (found,), theirs in zip((kept[name] for name in order), wanted, strict=True):
        assert found.shape[0] == 2
        assert found.shape[2] in p
        assert found.shape[3] == l
        assert torch.allclose(found, theirs, atol=1e-6 if family == "flux" else 1e-10)
        assert (found.sum(-1) <= 1 + 1e-9).all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_are_what_a_rule_around_them_leaves_to_be_mixed(family) -> None:
    """Queries turned round: rows sum to 1, and mix the values to what attention gives.

    A rule within is left in its place.
    """
    view, readings = tiny.view(family), []
    places = text_attentions(view)

    def rule(reading, mix):
        turned = replace(reading, queries=-reading.queries)
        readings.append((turned, mix(turned)))
        return readings[-1][1]

    with torch.no_grad(), record_attention(view, places) as kept, steer_attentions(places.values(), rule):
        after = asked(view)
    for reading, out in readings:
        (found,) = next(kept[name] for name, module in places.items() if module is reading.attention)
        assert torch.allclose(found.sum(-1), torch.ones((), dtype=found.dtype))
        values = reading.values.unflatten(-1, (found.shape[1], -1)).transpose(1, 2)
        assert torch.allclose((found @ values).transpose(1, 2).flatten(2), out, atol=1e-12)
    with torch.no_grad(), steer_attentions(places.values(), rule), record_attention(view, places):
        assert torch.equal(asked(view), after)


@pytest.mark.parametrize("family", EVERY)
def test_some_tokens_a_call_each_and_gone_afterwards(family) -> None:
    view = tiny.view(family)
    places = text_attentions(view)
    own = [module.processor for module in places.values()]
    with torch.no_grad(), record_attention(view, places) as whole, record_attention(view, places, [2, 5]) as some:
        asked(view)
        asked(view)
    for name in places:
        assert [len(kept[name]) for kept in (whole, some)] == [2, 2]
        assert torch.equal(some[name][1], whole[name][1][..., [2, 5]])
    assert [module.processor for module in places.values()] == own


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_a_loss_on_them_reaches_weights_and_text(family) -> None:
    view = tiny.view(family)
    places = text_attentions(view)
    given = view.condition(TEXTS)
    states = given.states.detach().requires_grad_()
    with record_attention(view, places) as kept:
        asked(view, type(given)(states, given.pooled, given.time_ids))
    module = list(places.values())[-1]
    loss = sum(found[..., 1].square().sum() for (found,) in kept.values())
    gradients = torch.autograd.grad(loss, [states, module.to_q.weight])
    assert all(bool(g.any()) and bool(torch.isfinite(g).all()) for g in gradients)


def test_places_by_name() -> None:
    assert all(name.startswith("unet.") and name.endswith(".attn2") for name in text_attentions(tiny.shared("sdxl")))
    assert list(text_attentions(tiny.shared("flux"))) == ["transformer.transformer_blocks.0.attn"]
    assert len(text_attentions(tiny.shared("sd3"))) == 2
