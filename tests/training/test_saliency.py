"""Gradient maps on losses that can be differentiated by hand."""

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.training import TrainingSession, training_session
from unconcept.training.gradients.saliency import SaliencyPlan, intersect_saliency

SIZES = torch.tensor([4.0, -3.0, 2.0, 1.0])


def masks(weights, plan):
    """Of one tensor of zeros, under losses that are linear in it."""
    params = [torch.zeros(4, requires_grad=True)]
    losses = [lambda step, rng, w=w: (params[0] * w).sum() for w in weights]
    (found,) = intersect_saliency(params, [torch.zeros(4)], losses, plan, seed=0)
    assert not params[0].any()
    return found.tolist()


def test_a_map_keeps_the_largest_share_and_all_maps_what_they_share() -> None:
    half = SaliencyPlan(2, 0.5)
    assert masks([SIZES], half) == [True, True, False, False]
    assert masks([SIZES, SIZES.roll(1)], half) == [False, True, False, False]
    assert masks([SIZES], SaliencyPlan(1, 1.0)) == [True] * 4
    assert masks([SIZES], SaliencyPlan(1, 0.5, is_smallest=True)) == [False, False, True, True]


def test_gradients_are_summed_before_their_size_counts() -> None:
    params = [torch.zeros(2, requires_grad=True)]

    def loss(step, rng):
        return (params[0] * torch.tensor([5.0 * (-1) ** step, 1.0])).sum()

    (found,) = intersect_saliency(params, [torch.zeros(2)], [loss], SaliencyPlan(2, 0.5), seed=0)
    assert found.tolist() == [False, True]


def test_an_entry_without_a_gradient_is_in_no_map() -> None:
    assert masks([torch.tensor([1.0, 0.0, 0.0, 0.0])], SaliencyPlan(1, 0.5)) == [True, False, False, False]


def test_a_moving_model_begins_every_map_at_the_start() -> None:
    """The loss of the second gradient is that after a step of Adam; the second map's first is that of the first one."""
    params, seen = [torch.ones(4, requires_grad=True)], []

    def loss(step, rng):
        seen.append(params[0].detach().clone())
        return (params[0].square() * SIZES).sum()

    intersect_saliency(params, [torch.ones(4)], [loss, loss], SaliencyPlan(2, 1.0, lr=0.1), seed=0)
    assert torch.equal(seen[0], seen[2])
    assert (seen[1] - seen[0]).abs().tolist() == pytest.approx([0.1] * 4, rel=1e-5)
    assert torch.equal(params[0], torch.ones(4))


def test_maps_that_share_nothing_are_one_line() -> None:
    with pytest.raises(SettingsError, match=r"^saliency: 2 maps have no weight in common: .* larger share than 0.5$"):
        masks([SIZES, SIZES.flip(0)], SaliencyPlan(1, 0.5))


@pytest.mark.parametrize("plan", [{"steps": 0, "share": 0.5}, {"steps": 1, "share": 0.0}, {"steps": 1, "share": 1.5}])
def test_plans_out_of_range(plan) -> None:
    with pytest.raises(SettingsError, match=r"^saliency: "):
        SaliencyPlan(**plan)


def test_every_gradient_is_told() -> None:
    told = []
    with training_session(TrainingSession(lambda progress: told.append((progress.name, progress.done, progress.of)))):
        masks([SIZES, SIZES], SaliencyPlan(2, 0.5))
    assert told == [("saliency-1", 1, 2), ("saliency-1", 2, 2), ("saliency-2", 1, 2), ("saliency-2", 2, 2)]
