"""The cards' "How to check an implementation", attack by attack, on tiny models."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests import tiny
from tests.attacks.cases import case
from unconcept.attacks.concept_inversion import ConceptInversion
from unconcept.attacks.derived_embedding import DerivedEmbedding
from unconcept.attacks.latent_inversion import LatentInversion
from unconcept.attacks.p4d import P4D
from unconcept.attacks.resurgence import Resurgence
from unconcept.attacks.ring_a_bell import Population, RingABell, searchable_token_ids, text_state_errors
from unconcept.attacks.unlearn_diff_atk import UnlearnDiffAtk, attack_timesteps
from unconcept.attacks.wordings import Wordings
from unconcept.core.errors import RequestError
from unconcept.edits import DenseEdit
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.text.vocabulary import special_ids, word_ids
from unconcept.training.token_search import spread_free_tokens

# Concept inversion


def test_inversion_loss_falls_on_the_unedited_model() -> None:
    asked = case("sd1", edited=False)
    learned = list(ConceptInversion(steps=40, every=20, lr=0.05, batch_size=8, accumulate=1, flip=False).search(asked))
    rows = [attempt.inputs[0].soft.rows[0] for attempt in learned]
    assert learned[2].loss < learned[1].loss
    assert not torch.equal(rows[0], rows[2])


def test_inversion_starts_as_its_word_and_stands_where_the_name_stood() -> None:
    asked = case("sd1")
    floor = next(ConceptInversion(init="x").search(asked))
    for i, typed in enumerate(("a x in ink", "x", "x it barks")):
        soft = asked.model.condition(floor.inputs[i].soft)
        assert torch.allclose(soft.states, asked.model.condition([typed]).states, atol=1e-6)


def test_inversion_of_several_rows() -> None:
    floor = next(ConceptInversion(vectors=3).search(case("sdxl")))
    soft = floor.inputs[0].soft
    assert [row.shape for row in soft.rows] == [(1, 3, 32), (1, 3, 32)]
    assert soft.at.tolist() == [[2, 3, 4]]


# UnlearnDiffAtk


def test_timesteps_are_the_papers() -> None:
    assert attack_timesteps(50, 1000)[:3] == [10, 30, 50]
    assert attack_timesteps(50, 1000)[-1] == 990


def test_prefix_keeps_the_prompt_behind_the_tokens() -> None:
    attempts = list(UnlearnDiffAtk(tokens=2, timesteps=1, iterations=1).search(case("sd1")))
    assert attempts[0].inputs[0].text == "a dog in ink"
    assert attempts[1].inputs[0].text.replace(" ", "").endswith("adoginink")
    assert attempts[1].inputs[0].text != "a dog in ink"


def test_a_search_does_not_know_its_neighbours() -> None:
    settings = UnlearnDiffAtk(tokens=2, timesteps=1, iterations=3)
    together = list(settings.search(case("sd1")))[1]
    one_by_one = list(replace(settings, batch_size=1).search(case("sd1")))[1:]
    assert [together.inputs[i].text for i in range(3)] == [
        attempt.inputs[i].text for i, attempt in enumerate(one_by_one)
    ]


# P4D


def test_student_is_teacher_has_no_loss(monkeypatch) -> None:
    """On the unedited model, with the prompt's own tokens where the free ones stand."""
    asked = case("sd1", edited=False)
    ids = word_ids(asked.model.tokenizer, asked.prompts[1])
    one = replace(asked, prompts=asked.prompts[1:2], pictures=asked.pictures[1:2], noise=asked.noise[1:2])

    def planted(vocabulary, count, rngs):
        return vocabulary.vectors(torch.tensor([ids])).clone()

    monkeypatch.setattr("unconcept.attacks.p4d._random", planted)
    attempt = list(P4D(n=len(ids), steps=1, every=1).search(one))[1]
    assert attempt.loss < 1e-10


def test_variant_k_keeps_the_prompt_between_its_tokens() -> None:
    asked = case("sd1")
    ids = word_ids(asked.model.tokenizer, asked.prompts[0])
    slots = spread_free_tokens(ids, 3, 22)
    assert len(slots.free_positions) == len(ids) // 3 + 1
    attempt = list(P4D(variant="k", steps=2, every=2).search(asked))[1]
    letters = attempt.inputs[0].text.replace(" ", "")
    kept = iter(letters)
    assert all(letter in kept for letter in "adoginink")
    assert len(letters) == len("adoginink") + len(slots.free_positions)


# Ring-A-Bell


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_direction_is_nought_at_the_start_token_and_turns_with_the_pair(family) -> None:
    asked = case(family)
    found = RingABell(neutral="cat").direction(replace(asked, concept=replace(asked.concept, aliases=())))
    width = asked.model.width
    assert found[:width].abs().max() < 1e-5
    turned = RingABell(neutral="dog").direction(replace(asked, concept=replace(asked.concept, name="cat", aliases=())))
    assert torch.allclose(found, -turned, atol=1e-5)


def test_the_prompts_own_tokens_have_no_error_without_the_direction() -> None:
    asked = case("sd1")
    ids = torch.tensor([word_ids(asked.model.tokenizer, "a dog"), word_ids(asked.model.tokenizer, "a cat")])
    goal = asked.model.condition(["a dog"]).states.flatten(1)[0].detach()
    with torch.no_grad():
        both = text_state_errors(asked.model, ids, goal)
        assert both[0] < 1e-8 < both[1]
        assert torch.allclose(text_state_errors(asked.model, ids[1:], goal), both[1:], rtol=1e-5)


def test_genetic_search_finds_planted_tokens_and_never_gets_worse() -> None:
    asked, rng = case("sd1"), torch.Generator().manual_seed(0)
    few = torch.tensor(word_ids(asked.model.tokenizer, "abcdef"))
    planted = few[[4, 1, 3]]
    with torch.no_grad():
        goal = read_states(asked.model, planted)
        settings, losses = RingABell(population=40, length=3), []
        start = few[torch.randint(len(few), (40, 3), generator=rng)]
        herd = Population(start, rng, start[0])
        for _ in range(15):
            settings._evolve(asked.model, herd, goal, few, False)
            losses.append(herd.loss)
    assert losses == sorted(losses, reverse=True)
    assert torch.equal(herd.best, planted)


def read_states(model, ids):
    from unconcept.attacks.ring_a_bell import _flat, _read
    from unconcept.models.text.vocabulary import pad_ids

    return _flat(_read(model, pad_ids(model.tokenizer, [ids.tolist()])))[0]


def test_search_never_uses_special_tokens_or_id_nought() -> None:
    model = case("sd1").model
    assert not set(searchable_token_ids(model).tolist()) & {0, *special_ids(model.tokenizer)}


# RECE's derive step


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_derived_states_are_read_nearer_to_the_concept(family) -> None:
    """Over all edited maps, with the ridge: |W' c' - W c|^2 + lam |c'|^2 is below its value at c' = c."""
    asked = case(family)
    found = list(DerivedEmbedding(lamb=0.01).search(asked))[1].inputs[0].states
    own = asked.model.condition(["a dog in ink"])
    at = len(word_ids(asked.model.tokenizer, "a dog"))
    c, derived = own.states[0, at].double(), found.states[0, at].double()
    reference = {name: w.detach().double() for name, w in asked.model.text_maps().items()}
    with asked.edit_applied():
        edited = {name: w.detach().double() for name, w in asked.model.text_maps().items()}

    def objective(x):
        return sum((edited[n] @ x - reference[n] @ c).square().sum() for n in edited) + 0.01 * x.square().sum()

    assert objective(derived) < objective(c)
    rest = [i for i in range(own.states.shape[1]) if i != at]
    assert torch.equal(found.states[0, rest], own.states[0, rest])


def test_derived_all_states_are_those_of_one_matrix() -> None:
    asked = case("sd1")
    last, every = (
        list(DerivedEmbedding(tokens=tokens).search(asked))[1].inputs[1].states for tokens in ("last", "all")
    )
    at = len(word_ids(asked.model.tokenizer, "hound"))
    assert torch.allclose(last.states[0, at], every.states[0, at], atol=1e-6)
    assert not torch.allclose(last.states[0, at + 1], every.states[0, at + 1], atol=1e-6)


# Wordings


def test_wordings_in_order() -> None:
    texts = [[attempt.inputs[i].text for i in (0, 1, 2)] for attempt in Wordings(misspellings=1).search(case("sd1"))]
    assert texts == [
        ["a dog in ink", "hound", "it barks"],
        ["a pooch in ink", "pooch", "pooch it barks"],
        ["a dgo in ink", "dgo", "dgo it barks"],
    ]


# Resurgence


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_no_learning_rate_no_resurgence(mode) -> None:
    """Also bit for bit in the pictures."""
    asked = case("sd1")
    found = list(Resurgence(mode=mode, lr=0.0, checkpoints=(2,)).search(asked))[1].inputs[0].weights
    assert all(not found.delta(name, w).any() for name, w in asked.model.reference(found.names).items())
    pictures = []
    with asked.edit_applied():
        pictures.append(asked.model.sample(["a dog"], asked.noise[:1], 2, 3.0))
        with found.applied(asked.model):
            pictures.append(asked.model.sample(["a dog"], asked.noise[:1], 2, 3.0))
    assert torch.equal(*pictures)


@pytest.mark.parametrize(("mode", "lr"), [("lora", 3e-2), ("full", 3e-3)])
def test_fine_tuning_learns_its_pictures(mode, lr) -> None:
    asked = case("sd1")
    attempts = list(Resurgence(mode=mode, lr=lr, checkpoints=(20, 40), batch_size=4).search(asked))
    assert attempts[2].loss < attempts[1].loss
    assert attempts[2].inputs[0].weights.hash != attempts[1].inputs[0].weights.hash
    assert isinstance(attempts[1].inputs[0].weights, DenseEdit) == (mode == "full")


def test_checkpoints_do_not_change_the_way() -> None:
    """A run with a checkpoint on its way ends where a run without one ends."""
    for mode in ("lora", "full"):
        ends = [list(Resurgence(mode=mode, lr=1e-3, checkpoints=at).search(case("sd1")))[-1] for at in ((4,), (1, 4))]
        one, two = (attempt.inputs[0].weights for attempt in ends)
        own = case("sd1").model.reference(one.names)
        assert all(torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-6) for name, w in own.items())


def test_drift_adds_up() -> None:
    """theta_k - theta_0 = (theta_e - theta_0) + (theta_k - theta_e)."""
    asked = case("sd1")
    found = list(Resurgence(mode="full", lr=1e-3, checkpoints=(2,)).search(asked))[1].inputs[0].weights
    name = asked.edit.names[0]
    before = asked.model.text_maps()[name].detach().clone()
    with asked.edit_applied(), found.applied(asked.model):
        after = asked.model.text_maps()[name].detach().clone()
    assert torch.allclose(after - before, asked.edit.delta(name, before).float() + found.delta(name, before), atol=1e-5)


def test_resurgence_needs_pictures() -> None:
    with pytest.raises(RequestError, match="unrelated"):
        next(Resurgence().search(replace(case("sd1"), unrelated=None)))


# DDIM inversion


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_ddim_is_the_rule_written_out(family) -> None:
    """x_there = a_there x0 + s_there epsilon, both read off the edited model's word on x_here under the empty text."""
    asked = case(family)
    signal = asked.model.pipeline.scheduler.alphas_cumprod
    with torch.no_grad(), asked.edit_applied():
        x = encode_images(asked.model, asked.pictures[:1])
        for here, there in pairwise((0, 333, 666, 999)):
            said = asked.model.denoise(x, torch.tensor([here]), [""])
            a, s = signal[here].sqrt(), (1 - signal[here]).sqrt()
            epsilon, clean = (a * said + s * x, a * x - s * said) if family == "sd2" else (said, (x - s * said) / a)
            x = signal[there].sqrt() * clean + (1 - signal[there]).sqrt() * epsilon
    found = list(LatentInversion(steps=3).search(asked))[1].inputs[0].noise
    assert torch.allclose(found, x[0], rtol=1e-4, atol=1e-4)


def test_drawn_under_nothing_names_nothing() -> None:
    attempt = list(LatentInversion(steps=2, drawn="null").search(case("sd1")))[1]
    assert {found.text for found in attempt.inputs.values()} == {""}
