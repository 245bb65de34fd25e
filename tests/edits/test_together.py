"""Edits that run beside one another: what steers reads its own texts past what each row is given by its text."""

from contextlib import ExitStack

import pytest
import torch

from tests import tiny
from tests.edits.test_gated import made as gated
from tests.edits.test_steering import CROSS
from tests.edits.test_steering import made as steering
from unconcept.models.hooks.cross_attention import cross_attentions, steer_attentions

TEXTS = ["a dog face", "", "a fox", "by a sun"]


@torch.no_grad()
def said(view, edits, *batches):
    """What is predicted for each batch of texts."""
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    with ExitStack() as on:
        for edit in edits:
            on.enter_context(edit.applied(view))
        return [view.denoise(noise.expand(len(texts), -1, -1, -1), torch.tensor([500]), texts) for texts in batches]


@pytest.mark.parametrize(("name", "family"), CROSS)
def test_a_row_is_drawn_alike_whatever_stands_beside_it(name, family) -> None:
    """Also with as many rows as there are targets, and whichever edit came first."""
    view = tiny.shared(family)
    both = [gated(view), steering(view, name)]
    one_by_one, orders = [[text] for text in TEXTS], ([0, 1, 2, 3], [0, 3], [2, 1, 0])
    alone = torch.cat(said(view, both, *one_by_one))
    gated_alone = torch.cat(said(view, both[:1], *one_by_one))
    assert (alone - gated_alone).abs().amax((1, 2, 3))[[0, 2, 3]].min() > 1e-6
    for edits in (both, both[::-1]):
        found = said(view, edits, *([TEXTS[i] for i in order] for order in orders))
        assert all(torch.allclose(own, alone[order], atol=1e-12) for own, order in zip(found, orders, strict=True))


@torch.no_grad()
def test_adavd_takes_from_gated_values_what_the_weights_read_of_its_targets() -> None:
    view, before, after = tiny.shared("sd1"), [], []
    edit, own = steering(view, "adavd"), cross_attentions(view, view.text_maps())

    def recorded(into):
        return lambda reading, mix: (into.append(reading), mix(reading))[1]

    noise = torch.zeros(2, *view.latent_shape, dtype=view.dtype)
    with (
        gated(view).applied(view),
        steer_attentions(own, recorded(after)),
        edit.applied(view),
        steer_attentions(own, recorded(before)),
    ):
        view.denoise(noise, torch.tensor([500]), ["a dog face", "a sun"])
    weight, moved = torch.ones(2, 1, 1, dtype=view.dtype), []
    for own_values, kept in zip(before, after, strict=True):
        w = own_values.attention.to_v.weight
        assert torch.allclose(
            kept.values, edit.rule.retained_values(own_values.values, weight, lambda s, w=w: s.to(w) @ w.T), atol=1e-12
        )
        moved.append((own_values.values - own_values.states @ w.T).abs().max())
    assert max(moved) > 1e-6
