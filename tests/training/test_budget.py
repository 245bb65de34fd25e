"""How long a training takes by the number of its targets, and that each of them is trained, by every trained method."""

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.recipe import load_recipe
from unconcept.methods import methods
from unconcept.models import Conditioning
from unconcept.training import TrainingOptions, TrainingSession, training_session
from unconcept.training.budget import MOST_BUDGETS, TARGETS_PER_BUDGET, number_in_turn, training_budget
from unconcept.training.goals import TextEncodings

TRAINED = [name for name in methods if methods[name].mechanism == "trained"]
READS_STATES_ALONE = ("cpe",)  # Its losses call no denoiser.
NAMES = tuple(f"{letter}{digit}" for letter in "abcd" for digit in "12")  # more than a few steps reach by chance
REQUEST = Request(NAMES, tuple(f"o{name}" for name in NAMES), ("cat", "car"), "style")


def test_a_budget_serves_four_targets_and_grows_in_proportion() -> None:
    assert [training_budget(100, n) for n in (1, 3, TARGETS_PER_BUDGET, 5, 18)] == [100, 100, 100, 125, 450]
    assert training_budget(100, 40) == training_budget(100, 60) == 100 * MOST_BUDGETS
    assert training_budget(0, 18) == 0


def test_every_target_has_its_least() -> None:
    assert training_budget(1, 18) == 18
    assert training_budget(1, 18, least=10) == 180
    assert training_budget(1, 2_000) == 2_000
    assert training_budget(3, 2, least=10) == 3


def test_the_option_fixed_leaves_a_budget_as_it_is() -> None:
    with training_session(TrainingSession(options=TrainingOptions(budget="fixed"))):
        assert training_budget(100, 18) == 100


def test_a_turn_takes_every_target_once() -> None:
    turns = [[number_in_turn(18 * turn + place, 18, seed=0) for place in range(18)] for turn in range(3)]
    assert all(sorted(turn) == list(range(18)) for turn in turns)
    assert turns[0] != turns[1]
    assert [number_in_turn(step, 18, seed=1) for step in range(18)] != turns[0]


def trained_texts(name, monkeypatch, **settings) -> set[str]:
    """All texts that a training's own predictions, those with a gradient, were made under, or whose states it read."""
    view, known, found = tiny.view(family_for(name)), {}, set()
    plain, encode, recall = view.denoise, view.condition, TextEncodings.__call__

    def denoise(x_t, t, texts):
        if torch.is_grad_enabled() and isinstance(texts, Conditioning):
            found.update(str(known[key]) for key in map(rows_key, texts.states) if key in known)
        return plain(x_t, t, texts)

    def condition(texts):
        given = encode(texts)
        if torch.is_grad_enabled():
            found.update(text for text in texts if isinstance(text, str))
        return given

    def recalled(self, texts):
        given = recall(self, texts)
        known.update(zip(map(rows_key, given.states), texts, strict=True))
        if name in READS_STATES_ALONE and torch.is_grad_enabled():
            found.update(texts)
        return given

    monkeypatch.setattr(view, "denoise", denoise)
    monkeypatch.setattr(view, "condition", condition)
    monkeypatch.setattr(TextEncodings, "__call__", recalled)
    methods[name].settings(**QUICK.get(name, {}) | settings).erase(view, REQUEST, planted_services(view))
    return found


def rows_key(states: torch.Tensor) -> bytes:
    return states.detach().float().numpy().tobytes()


SLOWEST = "sculpting-memory"
TAKEN_IN_TURN = ("sfd", "eraseanything", "spm", "scissorhands", "salun", "gs-lora-plus", "stochastic-teacher")
"""Their targets take turns as those of faster methods do."""
CASES = [  # Searches replace a target's rows or words by others, so they are left out.
    *(
        pytest.param(name, {}, marks=pytest.mark.slow if name in TAKEN_IN_TURN else ())
        for name in TRAINED
        if name not in ("receler", "advunlearn", "kscu", "concept-ablation", "ant", "cpe", "doco", "rgd", SLOWEST)
    ),
    pytest.param(SLOWEST, {}, marks=pytest.mark.slow),
    ("concept-ablation", {"iterations": 20}),  # Its images are drawn by chance.
    pytest.param("doco", {"iterations": 20}, marks=pytest.mark.slow),
    pytest.param("rgd", {"iterations": 10}, marks=pytest.mark.slow),  # An epoch shows every image.
    ("receler", {"advrs_iters": 0}),
    ("advunlearn", {"adv_prompt_num": 0}),
    ("kscu", {"reworded_share": 0.0}),
    ("ant", {"saliency_seeds": 0}),  # A gradient map of each target would show them all.
    ("cpe", {"stages": 1}),  # A search reads every target.
    ("esd", {"sampling": "student"}),
    pytest.param(SLOWEST, {"sequential": False}, marks=pytest.mark.slow),
    pytest.param("advunlearn", {"adv_prompt_num": 0, "retain_train": "iter"}, marks=pytest.mark.slow),
    ("few-shot", {"is_zero_shot": True}),
]


def test_every_trained_method_is_a_case() -> None:
    assert {getattr(case, "values", case)[0] for case in CASES} == set(TRAINED)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_every_target_of_a_style_is_trained(name, settings, monkeypatch) -> None:
    texts = trained_texts(name, monkeypatch, **settings)
    assert [target for target in NAMES if not any(target in text.split() for text in texts)] == []


def test_a_recipe_of_the_authors_on_eleven_words_has_the_authors_steps() -> None:
    assert load_recipe("receler-i2p").training == {"budget": "fixed"}
