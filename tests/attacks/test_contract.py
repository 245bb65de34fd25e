"""What every registered attack must do, whatever it is."""

import tomllib
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.attacks.cases import QUICK, case, input_hash
from tests.toml_text import toml_text
from unconcept.attacks import ACCESS_LEVELS, attacks
from unconcept.core.errors import SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.settings import build_settings, settings_data
from unconcept.models.checkpoint.fingerprint import TEXT_ENCODER_PARTS
from unconcept.models.families import FAMILIES

SLOW = dict.fromkeys(("qwenimage", "flux2_klein", "flux2"), pytest.mark.slow)  # Attacks read text there as in zimage.
# What trains on pictures does so alike in Chroma and in FLUX.
SLOW_IN_CHROMA = {"relearning", "merge-lora", "resurgence", "latent-inversion", "concept-inversion"}


def marks(name, family):
    return pytest.mark.slow if family == "chroma" and name in SLOW_IN_CHROMA else SLOW.get(family, ())


CASES = [pytest.param(name, family, marks=marks(name, family)) for name in attacks for family in attacks[name].families]
# Chance is drawn alike on all families that are noised alike.
REPEATED = [
    pytest.param(name, family, marks=() if family in (attacks[name].families[0], "sd3") else pytest.mark.slow)
    for name in attacks
    for family in attacks[name].families
]


def state(view) -> tuple[str, int]:
    """Hash of all weights, and the number of hooks."""
    parts = [view.modules(part) for part in ("denoiser", "vae", *filter(view.checkpoint.has, TEXT_ENCODER_PARTS))]
    weights = {f"{i}.{n}": p for i, part in enumerate(parts) for n, p in part.named_parameters()}
    modules = [module for part in parts for module in part.modules()]
    assert all(p.grad is None for p in weights.values())
    assert all(p.requires_grad for p in weights.values())
    return hash_tensors(weights), sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


# Controls that keep the best of many pictures go on where the attack has ended.
ENDS_WITH_THE_ATTACK = set(attacks) - {"trajectory-noise"}


def quick(name):
    return build_settings(attacks[name].settings, QUICK[name])


@cache
def watched(name, family):
    """For each attempt of a search its steps, its prompts and a hash; the model stays as it is all along."""
    asked, found = case(family), []
    before = state(asked.model)
    for attempt in quick(name).search(asked):
        assert state(asked.model) == before
        assert torch.is_grad_enabled()
        assert not asked.model.original_weights
        tried = tuple(attempt.inputs) if attempt.control is None else ()
        found.append((attempt.steps, tried, input_hash(attempt)))
    return found


@pytest.mark.parametrize(("name", "family"), CASES)
def test_first_the_floor_then_growing_steps_and_the_model_is_left_alone(name, family) -> None:
    for i in range(len(case(family).prompts)):
        taken = [steps for steps, inputs, _ in watched(name, family) if i in inputs]
        assert taken[0] == 0
        assert len(taken) > 1
        assert taken == sorted({*taken})
        assert taken[-1] <= quick(name).most_steps if name == "wordings" else taken[-1] == quick(name).most_steps


@pytest.mark.parametrize(("name", "family"), REPEATED)
def test_same_seed_same_inputs(name, family) -> None:
    again = [input_hash(attempt) for attempt in quick(name).search(case(family))]
    assert again == [found for _, _, found in watched(name, family)]


def after_the_floor(name, asked):
    _, *rest = quick(name).search(asked)
    return [attempt for attempt in rest if attempt.control is None or name in ENDS_WITH_THE_ATTACK]


@pytest.mark.parametrize("name", list(attacks))
def test_solved_prompts_are_left_alone(name) -> None:
    asked = case("sd1")
    asked.solved.add(0)
    assert {i for attempt in after_the_floor(name, asked) for i in attempt.inputs} == {1, 2}
    asked.solved.update({1, 2})
    assert all(not attempt.inputs for attempt in after_the_floor(name, asked))


@pytest.mark.parametrize("name", list(attacks))
def test_an_input_can_be_drawn(name) -> None:
    asked = case("sdxl")
    for attempt in quick(name).search(asked):
        for i, found in attempt.inputs.items():
            assert (found.soft is None) or (found.states is None)
            with asked.edit_applied():
                given = found.states or asked.model.condition(found.soft or [found.text])
            assert len(given.states) == 1
            assert (found.noise if found.noise is not None else asked.noise[i]).shape == asked.noise[i].shape
            assert torch.isfinite(given.states).all()


@pytest.mark.parametrize("name", list(attacks))
def test_works_on_the_unedited_model(name) -> None:
    assert len(list(quick(name).search(case("sd1", edited=False)))) > 1


@pytest.mark.parametrize("name", list(attacks))
def test_settings_survive_toml(name) -> None:
    for settings in (attacks[name].settings(), quick(name)):
        assert build_settings(attacks[name].settings, tomllib.loads(toml_text(settings_data(settings)))) == settings


@pytest.mark.parametrize("name", list(attacks))
def test_row_of_the_table(name) -> None:
    info = attacks[name]
    assert info.rung in ACCESS_LEVELS
    assert info.summary.endswith(".")
    assert set(info.families) <= set(FAMILIES)
    is_everywhere = set(info.families) == set(FAMILIES)
    named = f"{name} is not defined for pixart models, only for {', '.join(info.families)}: "
    assert is_everywhere or info.undefined_for("pixart").startswith(named), "n/a only by the mechanism"


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("concept-inversion", "steps", 0),
        ("concept-inversion", "templates", ["no place"]),
        ("unlearn-diff-atk", "tokens", 0),
        ("unlearn-diff-atk", "place", "behind"),
        ("p4d", "variant", "u"),
        ("p4d", "k", 0),
        ("ring-a-bell", "population", 2),
        ("ring-a-bell", "mutation", 1.5),
        ("derived-embedding", "lamb", 0.0),
        ("wordings", "misspellings", -1),
        ("resurgence", "checkpoints", [5, 5]),
        ("resurgence", "mode", "half"),
        ("latent-inversion", "steps", 0),
        ("recall", "direction", "up"),
        ("recall", "strength", 0.0),
        ("sdedit", "edits", []),
        ("ddim-edit", "steps", 0),
        ("inpainting", "sides", [1.5]),
        ("ledits", "edit_guidance", 1.0),
        ("masactrl", "first_step", -1),
        ("completion", "handovers", [1.0]),
        ("trajectory-noise", "eta", [-1.0]),
    ],
)
def test_settings_out_of_range(name, setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(attacks[name].settings, {setting: value})


@pytest.mark.parametrize("name", list(attacks))
def test_uses_no_pictures_of_the_concept_but_those_it_declares(name) -> None:
    """The ladder prints how many an attacker needs."""
    asked, needs = case("sd1"), attacks[name].place.pictures
    blank = {
        "pictures": asked.pictures if needs == "prompts" else 0 * asked.pictures,
        "examples": asked.examples if needs in ("example", "examples") else 0 * asked.examples,
    }
    again = [input_hash(attempt) for attempt in quick(name).search(replace(asked, **blank))]
    assert again == [found for _, _, found in watched(name, "sd1")]


@pytest.mark.parametrize("name", ["sdedit", "inpainting"])
def test_a_picture_is_not_noised_by_the_noise_from_which_it_was_drawn(name) -> None:
    """Along a straight flow that would be a point of its own way: the unedited model would have drawn its begin."""
    asked = case("sd1")
    tried = [one for one in quick(name).search(asked) if one.steps]
    noises = [given.noise for i, given in sorted(tried[-1].inputs.items())]
    assert len(noises) == len({float(noise.sum()) for noise in noises}) == 3
    for i, noise in enumerate(noises):
        assert float((noise * asked.noise[i]).mean().abs()) < 0.3
        assert all(torch.equal(noise, attempt.inputs[i].noise) for attempt in tried)


@pytest.mark.parametrize("name", list(attacks))
def test_its_first_input_is_made_of_pictures_only_if_it_says_so(name) -> None:
    """The ladder prints no picture for an attack that has won before it used one."""
    asked = case("sd1")
    blind = replace(asked, pictures=0 * asked.pictures, examples=0 * asked.examples)
    first = input_hash(next(quick(name).search(blind)))
    assert (first != watched(name, "sd1")[0][2]) == attacks[name].place.starts_from_pictures
