"""The search for the forget set that is hardest to erase: its projection, its weights, and a run that is killed."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch

from tests.evaluation.test_harness import drawn as drawn
from tests.evaluation.test_harness import where as where
from tests.killed import Killed
from unconcept.core.errors import RequestError, SettingsError, UnknownName
from unconcept.core.settings import build_settings
from unconcept.evaluation.attacks.worst_case import (
    SetSearch,
    SetSearchSettings,
    drawn_members,
    project_to_capped_simplex,
    random_sets,
    select_worst_case,
)
from unconcept.evaluation.tasks import edit_task, weighed_erasure
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.trials.forget_sets import (
    ForgetSetPlan,
    concept_of_prompt,
    examine_forget_sets,
    set_suite,
)
from unconcept.evaluation.worlds import world_of
from unconcept.jobs.command_options import BenchOptions, EraseOptions, WorstCaseOptions
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import plan_bench
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.jobs.resolve import plan_job
from unconcept.jobs.searches.worst_case import WorstCaseRun, plan_worst_case
from unconcept.report.data_types import RateData
from unconcept.report.forget_set_data import ForgetSetData, ForgetSetsData
from unconcept.worlds.table import concept_table

NAMES = ("dog face", "pizza", "guitar", "star")


def constant(*losses: float):
    return lambda weights: torch.tensor(losses)


@pytest.mark.parametrize("total", [1, 3, 7])
def test_the_projection_is_the_nearest_feasible_point(total) -> None:
    w = torch.randn(7, generator=torch.Generator().manual_seed(total), dtype=torch.float64) * 3
    found = project_to_capped_simplex(w, total)
    assert abs(float(found.sum()) - total) < 1e-4
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.allclose(project_to_capped_simplex(found, total), found, atol=1e-5)
    corner = torch.eye(7, dtype=torch.float64).cumsum(0)[total - 1]
    assert float((w - found) @ (corner - found)) < 1e-4, "a feasible point is nearer"


def test_what_cannot_be_forgotten_has_weight_1() -> None:
    search = SetSearch(4, SetSearchSettings(1))
    for _ in range(10):
        search.advance(torch.tensor([0.9, 0.0, 0.8, 1.0]))
    assert search.weights.tolist() == pytest.approx([0, 1, 0, 0], abs=1e-4)
    assert select_worst_case(NAMES, constant(0.9, 0.0, 0.8, 1.0), SetSearchSettings(1)) == ("pizza",)


def test_the_easiest_set_is_searched_by_the_other_sign() -> None:
    search = SetSearch(4, SetSearchSettings(1), easiest=True)
    for _ in range(10):
        search.advance(torch.tensor([0.9, 0.0, 0.8, 1.0]))
    assert search.chosen == (3,)


def test_even_losses_keep_the_weights_even() -> None:
    search = SetSearch(4, SetSearchSettings(2))
    search.advance(torch.full((4,), 0.4))
    assert search.weights.tolist() == pytest.approx([0.5] * 4, abs=1e-5)


def test_all_candidates_are_no_choice() -> None:
    assert project_to_capped_simplex(torch.randn(4, dtype=torch.float64), 4).tolist() == pytest.approx(
        [1] * 4, abs=1e-5
    )
    with pytest.raises(SettingsError, match="a set of 4 out of 4 candidates"):
        SetSearch(4, SetSearchSettings(4))


def test_the_first_step_changes_no_weight_by_more_than_it_says() -> None:
    search = SetSearch(4, SetSearchSettings(2))
    search.advance(torch.tensor([3.0, 1.0, 2.0, 4.0]))
    assert max(abs(w - 0.5) for w in search.weights.tolist()) == pytest.approx(0.3, abs=1e-4)


def test_the_objective_never_rises_on_a_quadratic() -> None:
    """Losses that are the gradient of c . w + |w|^2 / 2: a convex toy."""
    easy = torch.tensor([0.5, 0.1, 0.9, 0.3], dtype=torch.float64)
    search, path = SetSearch(4, SetSearchSettings(2, w_lr=0.2, gamma=0)), list[float]()
    for _ in range(20):
        path.append(float(easy @ search.weights + search.weights @ search.weights / 2))
        search.advance(easy + search.weights)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(path))
    assert path[-1] < path[0]
    assert search.chosen == (1, 3)


def test_the_set_is_the_worst_of_a_toy_where_all_sets_are_known() -> None:
    """An erasure leaves 1 - w_i of a candidate, times how hard it is: no random set is worse on the mean."""
    hard = torch.tensor([0.1, 0.7, 0.2, 0.9, 0.4, 0.3], dtype=torch.float64)
    names = tuple("abcdef")
    worst = select_worst_case(names, lambda w: 1 - hard * (1.5 - w), SetSearchSettings(2))
    left = {name: float(value) for name, value in zip(names, hard, strict=True)}
    others = [sum(left[names[i]] for i in members) for members in random_sets(6, 2, 15, 0)]
    assert sum(left[name] for name in worst) == max(others)


def test_random_sets_differ_and_are_those_of_their_seed() -> None:
    found = random_sets(10, 3, 20, 0)
    assert len({*found}) == 20
    assert all(len({*members}) == 3 for members in found)
    assert found == random_sets(10, 3, 20, 0) != random_sets(10, 3, 20, 1)
    assert len(random_sets(4, 1, 20, 0)) == 4


def test_members_are_drawn_with_their_weights() -> None:
    weights, starts = (0.25, 1.0, 0.0, 0.75), [i / 40 for i in range(40)]
    drawn_sets = [drawn_members(weights, start) for start in starts]
    assert all(len(members) == 2 for members in drawn_sets)
    for i, weight in enumerate(weights):
        assert sum(i in members for members in drawn_sets) / 40 == pytest.approx(weight, abs=0.03)


@pytest.mark.parametrize(
    ("text", "concept", "by"), [("ink style dog face", "dog face", "object"), ("a landscape in ink", "ink", "style")]
)
def test_a_prompt_is_judged_by_its_object_else_by_its_style(text, concept, by) -> None:
    assert concept_of_prompt(text, concept_table())[:2] == (concept, by)
    assert concept_of_prompt(text, None) == (text, "object", (text,))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"size": 2, "concepts": ("pizza", "star")}, SettingsError, "a set of 2 out of 2"),
        ({"concepts": ()}, RequestError, "no candidate"),
        ({"concepts": ("pizza", "star", "pizza")}, RequestError, "'pizza' is named twice"),
        ({"method": "uce-debias"}, SettingsError, "erases nothing"),
        ({"method": "nothing"}, UnknownName, "no method 'nothing'"),
        ({"settings": {"lamb": 0}}, SettingsError, "lamb"),
        ({"by": "prompt", "concepts": ("a quiet day", "dog face")}, RequestError, "'a quiet day' names no concept"),
        ({"w_lr": 0.0}, SettingsError, "w_lr"),
    ],
)
def test_wrong_input_is_one_line_before_a_model_is_opened(tmp_path, monkeypatch, given, error, message) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    with pytest.raises(error, match=message):
        plan_worst_case(WorstCaseOptions(**{"concepts": NAMES, "size": 1, "out": tmp_path / "out", **given}))


def changed(value: object) -> object:
    """Another value than an option's default."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "s3://bucket/f"


@pytest.mark.parametrize(
    ("kind", "job", "planned", "chosen"),
    [
        (WorstCaseOptions, WorstCaseRun, plan_worst_case, {"concepts": NAMES, "size": 1, "by": "concept"}),
        (EraseOptions, Job, lambda options: plan_job(options).job, {"concepts": NAMES, "method": "uce"}),
        (BenchOptions, EvaluationRun, plan_bench, {"concepts": NAMES, "methods": "uce"}),
    ],
)
def test_no_option_that_a_job_has_is_dropped(tmp_path, kind, job, planned, chosen) -> None:
    """Whatever is not made of several options reaches the job as it was given."""
    made = {"model", "config", "settings", "regularisers", "recipe", "edits", "measures", "out", *chosen}
    names = {field.name for field in fields(kind)} & {field.name for field in fields(job)} - made
    given = {field.name: changed(field.default) for field in fields(kind) if field.name in names}
    assert len(given) > 8
    run = planned(kind(**chosen, out=tmp_path / "out", **given))
    assert {name: getattr(run, name) for name in given} == given


def test_values_from_python_are_checked(tmp_path) -> None:
    with pytest.raises(SettingsError, match="by"):
        build_settings(WorstCaseOptions, {"concepts": NAMES, "size": 1, "out": tmp_path, "by": "set"})


def plan(method: str = "uce", **changes) -> ForgetSetPlan:
    """A search of one out of three, with two random sets, in one picture each."""
    suite = set_suite(world_of("moji"), NAMES[:3], "concept", concept_table()).with_limit(1, 0)
    settings = SetSearchSettings(1, outer=2)
    made = ForgetSetPlan(
        EditedModel(), variant_of_method(method), NAMES[:3], "concept", "denoising", settings, 2, 0, suite
    )
    return replace(made, **changes)


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(where, drawn, tmp_path, monkeypatch) -> None:
    made, real, one = list[str](), edit_task.make_edit, plan(random=1)

    def counting(model, chosen, *rest):
        if len(made) == 2:
            made.append("killed")
            raise Killed
        made.append(", ".join(concept.name for concept in chosen.concepts))
        return real(model, chosen, *rest)

    for place in (edit_task, weighed_erasure):
        monkeypatch.setattr(place, "make_edit", counting)
    with pytest.raises(Killed):
        examine_forget_sets(one, tmp_path, where)
    drawn_before = sum(drawn)
    found, tally, data = examine_forget_sets(one, tmp_path, where)
    assert not tally.failed
    assert tally.complete
    together = [names for names in made if names.count(",") == 2]
    assert len(together) == 3, "the first step is shared, and none is taken twice"
    assert sorted({*made} - {*together, "killed"}) == sorted({name for one in data.sets for name in one.members})
    assert [finding.label for finding in found] == ["worst", "easiest", "random 1"]
    assert drawn_before == 3, "one picture of each candidate, before the first erasure"
    again, count = sum(drawn), len(made)
    assert examine_forget_sets(one, tmp_path, where)[2] == data
    assert (sum(drawn), len(made)) == (again, count), "all of it is in the store"


def test_a_deadline_ends_the_search_without_data(where, tmp_path) -> None:
    found, tally, data = examine_forget_sets(plan(), tmp_path, replace(where, deadline=0.0))
    assert (found, data) == ([], None)
    assert tally.left > 0


@pytest.mark.slow
def test_methods_without_weights_erase_drawn_sets_and_a_judge_may_give_the_loss(where, tmp_path) -> None:
    own = plan("nag", loss="judged", random=1)
    step = own.step(SetSearch(3, SetSearchSettings(1)), where)
    step.run(where.store)
    assert {*step.losses(where.store).tolist()} <= {0.0, 1.0}
    by_prompt = tuple(f"a {name}" for name in NAMES[:3])
    suite = set_suite(world_of("moji"), by_prompt, "prompt", concept_table()).with_limit(1, 0)
    bare = replace(variant_of_method("uce"), bare=True)
    found, tally, data = examine_forget_sets(
        replace(own, candidates=by_prompt, by="prompt", variant=bare, suite=suite), tmp_path, where
    )
    assert tally.complete
    assert {*data.sets[0].members} <= {*by_prompt}
    assert next(finding.concepts for finding in found) == data.sets[0].members


def rate(value: float) -> RateData:
    return RateData(value=value, low=value, high=value, n=8, clusters=None)


@pytest.mark.parametrize(("left", "as_hard", "said"), [(0.9, 0, False), (0.2, 2, True)])
def test_the_verdict_says_when_nothing_hard_was_found(left, as_hard, said) -> None:
    def one(kind, value):
        return ForgetSetData(kind=kind, label=kind, members=("a",), before=rate(1), shown=rate(value), kept=rate(1))

    sets = (one("worst", left), one("easiest", 0.1), one("random", 0.3), one("random", 0.5))
    data = ForgetSetsData(
        by="concept",
        loss="judged",
        method="uce",
        outer=2,
        candidates=(),
        sets=sets,
        random_shown=rate(0.4),
        as_hard=as_hard,
    )
    first = data.verdict()[0]
    assert f"{left:.0%} of the pictures of the worst set" in first
    assert "40% of those of 2 random sets" in first
    assert ("found no set that is harder than a random one" in first) == said
    missing = data.model_copy(update={"sets": sets[1:]})
    assert "not judged yet" in missing.verdict()[0]
