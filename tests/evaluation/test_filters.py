"""Filters as arms of a bench: what they withhold is grey, all else is the unedited model's, bit by bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.suites.registry import Suite
from unconcept.evaluation.tasks.draw import DrawTask
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.tasks.runner import TaskRecord
from unconcept.evaluation.trials.bench import attacks_on_trial, run_bench
from unconcept.evaluation.trials.filters import FILTERS, NoEdit, trial_of_filter
from unconcept.evaluation.trials.report import trial_data
from unconcept.evaluation.trials.trial import RunContext
from unconcept.jobs.command_options import BenchOptions
from unconcept.jobs.evaluate import plan_bench
from unconcept.prompts.checks import GroupSizes, Prompt
from unconcept.report.data import RunEditData
from unconcept.worlds.registry import METHOD_JUDGE_WEIGHTS, embedded_world

SPEC, JUDGE, PLAIN = DrawSpec(steps=2), Judge("moji-judge"), EditedModel()
TEXTS = ("an Electric  GUITAR, ink", "a guitarist", "a piano", "two guitars and a guitar")


class Brightness:
    """Finds a guitar in the left half of a picture if that is light."""

    name, version, hash = "brightness", 1, "0" * 64

    def score(self, pictures, asked):
        return [{"light": bool(picture[..., :4].mean() > 0.5)} for picture in pictures]

    def answer(self, row, by):
        return "guitar" if row["light"] and by == "left" else "nothing"


@pytest.fixture
def store(tmp_path) -> PictureStore:
    """Pictures of the unedited model, so that nothing is drawn: dark, light, dark, light."""
    kept = PictureStore(tmp_path / "store")
    for i, text in enumerate(TEXTS):
        kept.save(PLAIN.picture_key(SPEC, Prompt(text, i)), torch.full((3, 8, 8), 0.2 + 0.6 * (i % 2)))
    return kept


def behind(filtered, store) -> list[torch.Tensor]:
    prompts = tuple(Prompt(text, i) for i, text in enumerate(TEXTS))
    DrawTask(filtered, SPEC, prompts).run(store)
    return [store.load(filtered.picture_key(SPEC, prompt)) for prompt in prompts]


def unedited_pictures(store) -> list[torch.Tensor]:
    return [store.load(PLAIN.picture_key(SPEC, Prompt(text, i))) for i, text in enumerate(TEXTS)]


def is_grey(picture: torch.Tensor) -> bool:
    return bool((picture == picture[0, 0, 0]).all()) and abs(float(picture[0, 0, 0]) - 0.5) < 0.01


def test_a_word_filter_withholds_prompts_that_name_the_target(store) -> None:
    """As whole words, in capitals or not, by the names that an eraser gets and no more."""
    trial = trial_of_filter("word-filter", ("guitar",), PLAIN, JUDGE)
    assert trial.edit.origin.base == embedded_world("moji").dated_name  # as edits record it
    assert trial.subject.words == ("guitar", "electric guitar", "bass guitar")
    found = behind(trial.subject, store)
    assert [is_grey(picture) for picture in found] == [True, False, False, True]
    for i in (1, 2):
        assert torch.equal(found[i], unedited_pictures(store)[i])


def test_an_output_filter_withholds_pictures_in_which_its_judge_finds_the_target(store, monkeypatch) -> None:
    trial = trial_of_filter("output-filter", ("guitar",), PLAIN, JUDGE)
    assert trial.subject.judge == Judge("moji-judge", str(METHOD_JUDGE_WEIGHTS))
    assert trial.subject.labels == ("guitar",)
    monkeypatch.setattr(Judge, "open", lambda self: Brightness())
    found = behind(trial.subject, store)
    assert [is_grey(picture) for picture in found] == [False, True, False, True]
    assert torch.equal(found[2], unedited_pictures(store)[2])


def test_it_is_no_edit_and_no_attack_reaches_it() -> None:
    trial = trial_of_filter("word-filter", ("twemoji",), PLAIN, JUDGE)
    assert isinstance(trial.edit, NoEdit)
    assert not trial.edit.names
    RunEditData.model_validate({"hash": trial.subject.edit_hash, **trial.cost})  # As run.json has it.
    suite = Suite("two", "", GroupSizes(1, 1), group_checks, attacks=("*",))
    own, ceilings, reasons = attacks_on_trial(trial, suite, SPEC, JUDGE)
    assert (own, ceilings) == ([], [])
    assert "outside the model" in reasons["wordings"]
    assert trial.subject.key != PLAIN.key
    assert trial.subject.unedited == PLAIN


def test_who_grades_may_not_withhold(tmp_path) -> None:
    grading = Judge("moji-judge", str(METHOD_JUDGE_WEIGHTS))
    with pytest.raises(SettingsError, match="the one that grades may not withhold"):
        trial_of_filter("output-filter", ("guitar",), PLAIN, grading)


def test_a_bench_names_them_beside_methods() -> None:
    run = plan_bench(BenchOptions(concepts=["guitar"], out=Path("x"), methods="uce, word-filter,output-filter"))
    assert run.methods == ("uce", "word-filter", "output-filter")
    assert [variant_of_method(name).method for name in FILTERS] == list(FILTERS)


@pytest.mark.slow
def test_a_bench_of_filters_has_rows_like_any_other(tmp_path) -> None:
    """Far objects are kept to the picture; the target is nowhere where its name withheld it."""
    where = RunContext(
        PictureStore(tmp_path / "s"), TaskRecord(tmp_path / "r.sqlite"), replace(SPEC, steps=20), JUDGE, 1
    )
    suite = Suite("two", "", GroupSizes(4, 4), group_checks)
    arms = [variant_of_method(name) for name in FILTERS]
    found, tally = run_bench(arms, [("guitar",)], suite, PLAIN, tmp_path, where)
    assert not tally.failed
    rows = {finding.answered_trial.trial.label: trial_data(finding) for finding in found}
    assert list(rows) == list(FILTERS)
    assert rows["word-filter"].groups["direct"].after.value == 0
    assert rows["word-filter"].groups["far"].change.value == 0
    assert rows["output-filter"].groups["direct"].after.value < rows["output-filter"].groups["direct"].before.value
    assert rows["word-filter"].edit.method == "word-filter"
