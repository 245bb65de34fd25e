"""Gradient transforms: each the identity at its neutral setting, and its rule written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import SettingsError
from unconcept.training import Descent
from unconcept.training.gradient_transforms import (
    DynamicWeightMask,
    GradientClip,
    StartDistancePenalty,
    SubspaceProjection,
    WeightMask,
    largest_share_mask,
    one_way_surgery,
    project_conflict,
    top_share_mask,
    turn_over_mask,
)
from unconcept.training.gradients.surgery import two_way_surgery


def tensors(seed=0, wide=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 6, generator=rng, dtype=wide), torch.randn(5, generator=rng, dtype=wide)]


def descended(transforms=(), optimizer="adamw", steps=6, join=None):
    """Two tensors towards others, with whatever stands between."""
    params = [t.clone().requires_grad_() for t in tensors()]
    aims = tensors(1)

    def loss(step, rng):
        noise = 0.1 * torch.randn((), generator=rng, dtype=torch.float64)
        pulls = [(p - a + noise).square().sum() for p, a in zip(params, aims, strict=True)]
        return {"one": pulls[0], "two": pulls[1] + pulls[0] ** 2 / 100}

    Descent(params, 0.05, optimizer, 0.1, transforms=list(transforms), join=join).run(loss, steps)
    return [p.detach() for p in params]


def start():
    return tensors()


NEUTRAL = {
    "no drift, L2": lambda: StartDistancePenalty(start(), 0.0),
    "no drift, L1": lambda: StartDistancePenalty(start(), 0.0, 1),
    "mask of ones": lambda: WeightMask(start(), [torch.ones_like(t, dtype=torch.bool) for t in start()]),
    "dynamic mask of all": lambda: DynamicWeightMask(1.0, 0, 2, 0.3, 6),
    "no projector": lambda: SubspaceProjection(start(), [None, None]),
    "no limit": lambda: GradientClip(float("inf")),
}


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_neutral_is_the_identity(name) -> None:
    for ours, plain in zip(descended([NEUTRAL[name]()]), descended(), strict=True):
        assert torch.equal(ours, plain)


def test_the_whole_space_is_no_restriction() -> None:
    for ours, plain in zip(
        descended([SubspaceProjection(start(), [torch.zeros(6, 0, dtype=torch.float64), None])]),
        descended(),
        strict=True,
    ):
        assert torch.allclose(ours, plain, atol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_drift_is_the_gradient_of_its_term(power) -> None:
    own, moved = start(), [t.clone().requires_grad_() for t in tensors(2)]
    term = 7.0 * sum((m - o).abs().pow(power).sum() for m, o in zip(moved, own, strict=True)) / 29
    wanted = torch.autograd.grad(term, moved)
    found = StartDistancePenalty(own, 7.0, power).gradient(0, [torch.zeros_like(t) for t in own], moved)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))
    assert not any(
        g.any() for g in StartDistancePenalty(own, 7.0, power).gradient(0, [torch.zeros_like(t) for t in own], own)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_masked_entries_stay_to_the_bit(optimizer) -> None:
    """Also under AdamW's decay, which moves what has no gradient."""
    masks = [torch.rand(t.shape, generator=torch.Generator().manual_seed(5)) < 0.5 for t in start()]
    for found, own, mask in zip(descended([WeightMask(start(), masks)], optimizer), start(), masks, strict=True):
        assert torch.equal(found[~mask], own[~mask])
        assert (found != own)[mask].all()


def test_a_dynamic_mask_moves_nothing_before_it_is_drawn_and_its_share_after() -> None:
    assert all(
        torch.equal(a, b)
        for a, b in zip(descended([DynamicWeightMask(0.5, 3, 2, 0.0, 9)], steps=3), start(), strict=True)
    )
    moved = [
        (a != b).float().mean()
        for a, b in zip(descended([DynamicWeightMask(0.5, 3, 99, 0.0, 9)], steps=8), start(), strict=True)
    ]
    assert moved == pytest.approx([0.5, 0.4])


def test_a_dynamic_mask_is_redrawn_when_the_authors_redraw_it() -> None:
    """Their loop written out: steps counted from the warm-up's first, the share by epochs, none in the last fifth."""
    share, warm_up, interval, turnover, epochs, epoch = 0.5, 3, 4, 0.6, 5, 6
    ours = DynamicWeightMask(share, warm_up, interval, turnover, epochs, epoch)
    sums, masks, redrawn = [torch.zeros_like(t) for t in start()], [], []
    for number in range(1, epochs * epoch + 1):
        gradients = tensors(number)
        passed = ours.gradient(number - 1, gradients, start())
        assert (passed is None) == (not masks)
        if passed is not None:
            assert all(torch.equal(f, g * mask) for f, g, mask in zip(passed, gradients, masks, strict=True))
        sums = [total + g for total, g in zip(sums, gradients, strict=True)]
        now = (number - 1) // epoch
        if number == warm_up:
            masks = [largest_share_mask(total.abs(), share) for total in sums]
        elif number > warm_up and number % interval == 0 and now < int(0.8 * epochs):
            part = turnover * 0.5 * (1 + math.cos(math.pi * now / epochs))
            masks = [turn_over_mask(mask, total.abs(), part) for mask, total in zip(masks, sums, strict=True)]
            redrawn.append(number)
        else:
            continue
        sums = [torch.zeros_like(total) for total in sums]
    assert redrawn == [4, 8, 12, 16, 20, 24]


def test_a_dynamic_mask_goes_on_where_it_was() -> None:
    one, two = (DynamicWeightMask(0.5, 2, 2, 0.5, 10) for _ in range(2))
    for step in range(4):
        one.gradient(step, tensors(step), start())
    two.restore(one.state())
    for step in range(4, 9):
        assert all(
            torch.equal(a, b)
            for a, b in zip(*(mask.gradient(step, tensors(step), start()) for mask in (one, two)), strict=True)
        )


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.03, 0.3, 0.9, 1.0]), st.booleans())
def test_the_most_important_are_exactly_so_many(seed, share, alike) -> None:
    scores = [torch.ones_like(t) if alike else t.abs() for t in tensors(seed)]
    masks = top_share_mask(scores, share)
    assert sum(int(mask.sum()) for mask in masks) == int(share * 29 + 1e-9)
    chosen, others = (
        torch.cat([score[mask == side] for score, mask in zip(scores, masks, strict=True)]) for side in (True, False)
    )
    assert not len(chosen) or not len(others) or chosen.min() >= others.max()


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_turnover_keeps_the_number_of_active_entries(seed, share) -> None:
    scores = tensors(seed)[0].abs()
    mask = largest_share_mask(tensors(seed + 1)[0].abs(), 0.5)
    after = turn_over_mask(mask, scores, share)
    assert mask.sum() == after.sum() == 12
    left, joined = mask & ~after, after & ~mask
    assert left.sum() == joined.sum() == int(share * 12)
    assert not left.any() or scores[left].max() <= scores[mask & after].min()


def protected():
    """What is taken away, and what that protects: two directions of the input."""
    c = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return torch.linalg.qr(c)[0], c


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_protected_directions_stay(optimizer) -> None:
    taken, c = protected()
    found = descended([SubspaceProjection(start(), [taken, None])], optimizer)
    assert ((found[0] - start()[0]) @ c).abs().max() < 1e-12
    assert ((found[0] - start()[0]).abs().max()) > 1e-2


def test_the_gradient_alone_does_not_protect_under_adam() -> None:
    taken, c = protected()
    found = descended([SubspaceProjection(start(), [taken, None], exact=False)], "adam")
    assert ((found[0] - start()[0]) @ c).abs().max() > 1e-2


def test_clip_is_torchs() -> None:
    grads = tensors(3)
    params = [torch.nn.Parameter(g.clone()) for g in grads]
    for param, g in zip(params, grads, strict=True):
        param.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(params, 1.5)
    assert all(
        torch.allclose(ours, param.grad, atol=1e-12)
        for ours, param in zip(GradientClip(1.5).gradient(0, grads, params), params, strict=True)
    )


def test_surgery_takes_out_what_points_against() -> None:
    a, b = tensors(0)[1], tensors(1)[1]
    b = b if torch.sum(a * b) < 0 else -b
    assert torch.sum(project_conflict(a, b) * b).abs() < 1e-12
    assert torch.equal(project_conflict(a, -b), a)
    assert torch.equal(project_conflict(a, b, 0.0), a)
    terms = {"one": [a], "two": [b]}
    assert torch.equal(one_way_surgery("one", "two")(terms)[0], project_conflict(a, b))
    assert torch.allclose(
        two_way_surgery("one", "two", 0.5)(terms)[0], project_conflict(a, b) + 0.5 * project_conflict(b, a)
    )


def test_terms_that_do_not_conflict_are_their_sum() -> None:
    """And both projections use the other as it was: neither is harmed to first order."""
    same = [[t.abs() for t in tensors(seed)] for seed in (0, 1)]
    found = two_way_surgery("one", "two")({"one": same[0], "two": same[1]})
    assert all(torch.allclose(f, a + b) for f, a, b in zip(found, *same, strict=True))
    against = {"one": tensors(0), "two": [-t + 0.1 for t in tensors(0)]}
    joined = torch.cat([g.flatten() for g in two_way_surgery("one", "two")(against)])
    for terms in against.values():
        assert torch.sum(joined * torch.cat([g.flatten() for g in terms])) > -1e-12


def test_terms_are_joined_by_their_sum() -> None:
    together = descended(join=lambda terms: [a + b for a, b in zip(terms["one"], terms["two"], strict=True)])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(together, descended(), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GradientClip(0.0),
        lambda: StartDistancePenalty(start(), -1.0),
        lambda: StartDistancePenalty(start(), 1.0, 3),
        lambda: DynamicWeightMask(0.0, 1, 1, 0.1, 5),
        lambda: DynamicWeightMask(0.5, 0, 1, 0.1, 5),
    ],
)
def test_settings_out_of_range(wrong) -> None:
    with pytest.raises(SettingsError):
        wrong()
