"""Goals: the same in noise, v and flow; one call for all; texts encoded once."""

import pytest
import torch

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.training.goals import (
    GivenStates,
    PredictionGoal,
    TextEncodings,
    goal_predictions,
    guided_goal,
    keep_goal,
    negative_guidance_goal,
    towards_goal,
)

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)


def point(view, rows=2):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, *view.latent_shape, generator=rng, dtype=torch.float64), torch.tensor(
        [300, 700, 500, 20][:rows]
    )


def said(view, x, t, text):
    with torch.no_grad():
        return torch.cat([view.denoise(x[i : i + 1], t[i : i + 1], [text]) for i in range(len(x))])


@pytest.mark.parametrize("family", EVERY)
def test_goals_written_out(family) -> None:
    view = tiny.shared(family)
    x, t = point(view)
    c, e, o = (said(view, x, t, text) for text in ("dog", "", "cat"))
    goals = [
        keep_goal("cat"),
        negative_guidance_goal("dog", 1.5),
        negative_guidance_goal("dog", 2.0, start="cat"),
        guided_goal("dog", 3.0),
        towards_goal("dog", 0.5, {"cat": 0.25}),
    ]
    wanted = [o, e - 1.5 * (c - e), o - 2 * (c - e), c + 3 * (c - e), e + 0.5 * (c - e) - 0.25 * (o - e)]
    for ours, theirs in zip(
        goal_predictions(view, TextEncodings.of(view), x, t, [[goal] * 2 for goal in goals]), wanted, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5 if family in tiny.MMDITS else 1e-9)


@pytest.mark.parametrize("family", ["sd2", "sd3"])
def test_a_goal_in_noise_is_the_same_goal(family) -> None:
    """Predictions of v and of flow, mixed as they are and mixed as noise."""
    view = tiny.shared(family)
    x, t = point(view)
    goal = negative_guidance_goal("dog", 1.5)
    (ours,) = goal_predictions(view, TextEncodings.of(view), x, t, [[goal] * 2])
    noise = sum(weight * view.schedule.epsilon(said(view, x, t, text), x, t) for text, weight in goal.weights.items())
    assert torch.allclose(view.schedule.epsilon(ours, x, t), noise, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_states_that_no_text_gave_are_asked_for_like_texts(family) -> None:
    """In one call with texts, which it names row by row in the goals' order."""
    view = tiny.shared(family)
    x, t = point(view)
    with torch.no_grad():
        given = [view.condition([text]) for text in ("dog", "cat")]
        free = [GivenStates(type(one)(one.states + 0.1, one.pooled, one.time_ids)) for one in given]
        wanted = torch.cat([view.denoise(x[i : i + 1], t[i : i + 1], one.conditioning) for i, one in enumerate(free)])
    rows = []
    handle = view.modules("denoiser").register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    found, other = goal_predictions(
        view, TextEncodings.of(view), x, t, [[keep_goal(one) for one in free], [keep_goal("dog"), keep_goal(free[1])]]
    )
    handle.remove()
    assert torch.allclose(found, wanted, atol=1e-5 if family in tiny.MMDITS else 1e-9)
    assert torch.equal(other[1], found[1])
    assert rows == [3]


def test_the_two_forms_of_esd_agree() -> None:
    """e_c - (eta + 1) (e_c - e_0) = e_0 - eta (e_c - e_0)."""
    one, two = negative_guidance_goal("dog", 2.7, start="dog"), negative_guidance_goal("dog", 1.7)
    assert one.weights == pytest.approx(two.weights)
    assert negative_guidance_goal("dog", 1.0, start="dog").weights == {"dog": 0.0, "": 1.0}


def test_weights_must_sum_to_one() -> None:
    with pytest.raises(SettingsError, match="sum to 1"):
        PredictionGoal({"dog": 1.0, "": 0.5})


def test_one_call_for_all_and_none_for_what_weighs_nothing() -> None:
    view = tiny.view("sd1")
    x, t = point(view)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    goal_predictions(
        view, TextEncodings.of(view), x, t, [[negative_guidance_goal("dog", 1.0)] * 2, [keep_goal("dog")] * 2]
    )
    goal_predictions(view, TextEncodings.of(view), x, t, [[negative_guidance_goal("dog", 1.0, start="dog")] * 2])
    goal_predictions(view, TextEncodings.of(view), x, t, [[keep_goal("dog"), keep_goal("cat")]])
    assert rows == [4, 2, 2]


def test_texts_are_encoded_once_and_in_any_order() -> None:
    view = tiny.view("sdxl")
    count = []
    view.modules("text_encoder").register_forward_pre_hook(lambda module, args: count.append(1))
    texts = TextEncodings.of(view)
    first = texts(["dog", "", "dog"])
    again = texts(["", "dog"])
    assert len(count) == 2
    assert torch.equal(first.states[[1, 0]], again.states)
    assert torch.equal(first.pooled[[1, 2]], again.pooled)
    other = TextEncodings.of(view)
    other(["cat", ""])
    assert torch.equal(other(["dog"]).states, first.states[:1])


@pytest.mark.parametrize("strength", [1e9, 1e30, float("inf")])
def test_a_guidance_that_drowns_all_else_is_said(strength) -> None:
    for make in (negative_guidance_goal, guided_goal):
        with pytest.raises(SettingsError, match=r"a guidance of .* drowns what it is added to: lower it below 1e\+09"):
            make("dog", strength)
    assert sum(negative_guidance_goal("dog", 1e8).weights.values()) == 1
