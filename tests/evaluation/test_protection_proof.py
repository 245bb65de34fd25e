"""Learners on clean and protected pictures: what counts as recognised, kept copies, cleaned pictures, the verdict."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.attacks.test_contract import state
from tests.protection.cases import picture_of
from unconcept.core.concept import Concept
from unconcept.core.errors import DataError, SettingsError
from unconcept.evaluation.protection.adaptive import CLEANINGS
from unconcept.evaluation.protection.learners import LEARNERS, Learner, Subject, learner_for, require_learner
from unconcept.evaluation.protection.proof import ProofPlan, ProofRow, prove, verdict_of
from unconcept.evaluation.protection.recognition import Recogniser
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.worlds import world_of
from unconcept.metrics.intervals import wilson

QUICK = {"textual-inversion": {"steps": 2, "batch_size": 1, "accumulate": 1}, "lora": {"steps": 2, "batch_size": 1}}


class MeanColour:
    """Features that a test can plant."""

    name, version, hash = "colour", 1, "0"

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3))


def of_colour(*colours: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 4, 4)


def test_a_picture_is_recognised_if_the_nearest_is_the_subjects() -> None:
    own, others = of_colour((1, 0, 0), (0.9, 0.4, 0)), of_colour((0, 1, 0), (0, 0, 1))
    judge = Recogniser.of(MeanColour(), own, others)
    shown = of_colour((0.5, 0.1, 0), (0.2, 0.5, 0), (0.1, 0.1, 0.8))
    assert judge.recognised(shown).tolist() == [True, False, False]
    assert judge.likeness(own).tolist() == pytest.approx([1, 1])
    assert judge.likeness(shown)[0] > judge.likeness(shown)[1] > judge.likeness(shown)[2]
    with pytest.raises(DataError, match="of the subject and of others"):
        Recogniser.of(MeanColour(), own, others[:0])


def subject(seed: int = 0) -> Subject:
    return Subject(torch.stack([picture_of("sd1", i) for i in (1, 2)]), Concept("sks"), seed)


@pytest.mark.parametrize("name", list(LEARNERS))
def test_a_learner_changes_what_is_drawn_and_leaves_the_model(name) -> None:
    view, learner, spec = tiny.view("sd1", torch.float32), Learner(name, QUICK[name]), DrawSpec(2, 2.0)
    view.condition(["a"])
    prompts, before = subject().prompts(2, 5), state(view)
    copies = learner.copies(view, subject(), prompts, spec)
    assert state(view) == before
    assert learner.steps == 2
    assert copies.shape == (2, 3, 16, 16)
    assert torch.equal(copies, learner.copies(view, subject(), prompts, spec))
    other = replace(subject(), pictures=subject().pictures.flip(1))
    assert not torch.equal(copies, learner.copies(view, other, prompts, spec))


def test_a_learner_that_a_family_has_not_is_refused() -> None:
    require_learner("lora", tiny.view("pixart", torch.float32))
    with pytest.raises(SettingsError, match="learner textual-inversion: concept-inversion is not defined for pixart"):
        require_learner("textual-inversion", tiny.view("pixart", torch.float32))


def test_a_patient_learner_takes_ten_times_the_steps_or_the_nearest_power_of_two() -> None:
    moji = world_of("moji")
    for name in LEARNERS:
        usual, patient = learner_for(name, moji), learner_for(name, moji, factor=10)
        assert patient.steps == {150: 1500, 64: 512}[usual.steps]
    assert learner_for("lora", world_of("elsewhere")).steps == 1024
    assert learner_for("textual-inversion", world_of("elsewhere"), steps=7).steps == 7


@pytest.mark.parametrize("name", list(CLEANINGS))
def test_cleaning_keeps_size_and_range_and_depends_on_nothing_else(name) -> None:
    view, pictures = tiny.view("sd1", torch.float32), subject().pictures
    cleaned = CLEANINGS[name](view, pictures, 3)
    assert cleaned.shape == pictures.shape
    assert 0 <= cleaned.min() <= cleaned.max() <= 1
    assert not torch.equal(cleaned, pictures)
    assert torch.equal(cleaned, CLEANINGS[name](view, pictures, 3))


def test_copies_are_kept_and_rows_are_of_every_learner_and_set(tmp_path, monkeypatch) -> None:
    view = tiny.view("sd1", torch.float32)
    monkeypatch.setattr(EditedModel, "base", lambda self: view)
    clean = subject()
    plan = ProofPlan(
        clean, {"protected": clean.pictures.flip(1)}, EditedModel("tiny"), ("lora",), copies=2, steps=1, adaptive=True
    )
    monkeypatch.setattr(ProofPlan, "spec", lambda self, model: DrawSpec(1, 1.0))
    learned = []

    def copies(self, model, taught, prompts, spec):
        learned.append((self.steps, taught.pictures))
        return taught.pictures

    monkeypatch.setattr(Learner, "copies", copies)

    def recogniser(unlearned):
        return Recogniser.of(MeanColour(), clean.pictures, torch.cat([unlearned, clean.pictures.flip(1)]))

    rows = prove(plan, recogniser, tmp_path)
    found = {(row.learner, row.pictures): (row.recognised.value, row.steps) for row in rows}
    assert found["lora", "clean"] == (1.0, 1)
    assert found["lora", "protected"] == (0.0, 1)
    assert found["lora", "protected, 10 times the steps"] == (0.0, 8)
    assert found["none: the pictures themselves", "protected"] == (0.0, 0)
    assert len(learned) == 2 + len(CLEANINGS) + 2
    everywhere = replace(plan, other_base="elsewhere")
    assert everywhere.factors == [arm.factor for arm in everywhere.arms()], "known before a picture is cleaned"
    assert torch.equal(learned[1][1], plan.protected["protected"])
    assert [row.data() for row in prove(plan, recogniser, tmp_path)] == [row.data() for row in rows]
    assert len(learned) == 2 + len(CLEANINGS) + 2


def test_a_verdict_says_by_how_much_and_what_cleaning_gets_back() -> None:
    def row(pictures, hits):
        return ProofRow("lora", pictures, 1, wilson(hits, 20), 0.5)

    told = verdict_of([row("clean", 16), row("protected", 4), row("protected, JPEG 75", 8)])
    assert told == [
        "lora: copies recognised, from clean pictures 80%, from protected ones 20%: fewer by 75% of them.",
        "lora, against protected pictures at best: 40% (protected, JPEG 75).",
    ]
    assert "nothing is shown" in verdict_of([row("clean", 0), row("protected", 0)])[0]
    assert "not fewer by 50%" in verdict_of([row("clean", 8), row("protected", 12)])[0]
