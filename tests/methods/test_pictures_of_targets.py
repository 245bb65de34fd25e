"""Methods that draw pictures of the targets draw every target, however few pictures are asked for."""

from dataclasses import fields

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.errors import DataError
from unconcept.methods import methods
from unconcept.training.images.training_images import take_in_turn
from unconcept.training.loop import Descent
from unconcept.training.trajectories import GuidedSampler

DRAWING = [name for name in methods if "pictures" in {field.name for field in fields(methods[name].settings)}]
DRAWING_IN_STEPS = ("eraseanything",)  # All others draw before their first step.
TARGETS = ("dog", "fox", "hat", "sun", "bus")


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The prompts of all pictures."""
    view, prompts = tiny.shared("sd1"), []
    sample, walk = type(view).sample, GuidedSampler.denoise_steps

    def keep_sampled(self, asked, *args, **kwargs):
        prompts.extend(asked)
        return sample(self, asked, *args, **kwargs)

    def keep_walked(self, x, asked, *args, **kwargs):
        prompts.extend(asked)
        return walk(self, x, asked, *args, **kwargs)

    monkeypatch.setattr(type(view), "sample", keep_sampled)
    monkeypatch.setattr(GuidedSampler, "denoise_steps", keep_walked)
    return prompts


@pytest.mark.parametrize("name", DRAWING)
def test_every_target_is_drawn(name, drawn, monkeypatch) -> None:
    """By a method whose pictures are the anchors', every anchor is."""
    if name not in DRAWING_IN_STEPS:
        monkeypatch.setattr(Descent, "run", lambda *args: [])
    view, is_of_anchors = tiny.view(family_for(name)), name in ("concept-ablation", "doco", "noisy-gd")
    words = tuple(f"no {target}" for target in TARGETS) if is_of_anchors else TARGETS
    anchors = tuple(f"a {target}" for target in TARGETS) if is_of_anchors else ("cat",) * len(TARGETS)
    pictures = max(2, QUICK[name].get("pictures", 2))
    settings = QUICK[name] | {"pictures": min(pictures, len(TARGETS) - 1)}
    if name == "sculpting-memory":
        settings["sequential"] = False  # one stage for all of them
    methods[name].settings(**settings).erase(view, Request(words, anchors, ("cod",)), planted_services(view))
    assert {target for target in TARGETS if any(target in prompt for prompt in drawn)} == set(TARGETS)


@pytest.mark.parametrize(
    "name", ["concept-ablation", "doco", "eraseanything", "erasediff", "few-shot", "rgd", "salun", "scissorhands"]
)
def test_a_model_that_draws_nothing_is_refused_in_one_line(name, monkeypatch) -> None:
    view = tiny.view(family_for(name))
    blank = torch.full((3, 8 * view.latent_shape[1], 8 * view.latent_shape[2]), 0.5)
    monkeypatch.setattr(type(view), "sample", lambda self, prompts, *args: torch.stack([blank] * len(prompts)))
    with pytest.raises(DataError, match=r"pictures that the model draws.* are of one colour: ") as error:
        methods[name].settings(**QUICK[name]).erase(view, Request(("dog",), ("cat",), ("cod",)), planted_services(view))
    assert "\n" not in str(error.value)


def test_items_are_taken_group_by_group() -> None:
    assert take_in_turn([["a", "b"], ["c"]], 5) == ["a", "c", "b", "c", "a"]
    assert take_in_turn([["a", "b"]], 1) == ["a"]
