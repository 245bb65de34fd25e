"""The ladder: rungs from the registry in order of cost, least budgets, what may teach, and a weak edit that falls."""

from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.evaluation.test_harness import SPEC
from tests.evaluation.test_harness import pizza as pizza
from tests.evaluation.test_harness import where as where
from tests.evaluation.test_robustness import planted
from unconcept.attacks import ATTACK_COSTS, LadderPlace, attacks
from unconcept.core.errors import RequestError, SettingsError, UnknownName
from unconcept.core.request import Request
from unconcept.edits import open_edit
from unconcept.edits.origin import origin_for
from unconcept.evaluation.attacks.ladder import known_rungs, named_rungs
from unconcept.evaluation.attacks.threat_model import knowledge_from_table
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.suites.registry import Suite
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.trials.bench import examine_trials
from unconcept.evaluation.trials.ladder import ladder_data, plan_ladder, require_a_rung
from unconcept.evaluation.trials.trial import AnsweredTrial, Trial
from unconcept.jobs.command_options import AttackOptions
from unconcept.jobs.evaluate import plan_attack
from unconcept.methods.nag import NAG
from unconcept.prompts.checks import GroupSizes
from unconcept.report.ladder_data import LadderData
from unconcept.report.ladder_svg import budget_text, ladder_svg

JUDGE = Judge("moji-judge")
FREE = {"queries": 0, "steps": 0, "pictures": 0, "seconds": 0.0}


def suite(*rungs: str, prompts: int = 4) -> Suite:
    return Suite("ladder", "", GroupSizes(prompts, 0), group_checks, prompts_per_attack=prompts, rungs=rungs)


def trial(path, strength: float = 1.0) -> Trial:
    return Trial("edit", ("pizza",), EditedModel.of(EditedModel(), path, strength), open_edit(path))


@pytest.fixture
def beside(tmp_path):
    """An edit that runs beside the model."""
    view, request = EditedModel().base(), Request(("pizza",), ("taco",))
    edit = NAG().erase(view, request)
    edit.stamped(origin_for(edit, view, request, "nag", {})).save(tmp_path / "edit.safetensors")
    return tmp_path / "edit.safetensors"


def climbed(
    path, where, course: dict[str, tuple], before: Sequence[bool], after: Sequence[bool], control=None, judged=None
) -> LadderData:
    """The ladder of an edit under results that are planted by rung: of the edit, the unedited model, the control.

    `judged` of the plain prompts are answered; None for all.
    """
    asked = suite(*course)
    checks = [check for check in asked.checks(("pizza",)) if check.group == "direct"]
    known = knowledge_from_table("pizza")
    planned = plan_ladder(trial(path), asked, checks, known, SPEC, JUDGE, control)
    for one in planned:
        for tasks, shown in zip((one.own, one.ceilings, one.controls), course[one.rung.name], strict=False):
            for task in tasks:
                planted(task, where.store, shown)
    hit, miss = checks[0].labels[0], "nothing"
    words = [(hit if old else miss, hit if new else miss) for old, new in zip(before, after, strict=True)]
    answers = tuple(PairedAnswer(check, *both) for check, both in zip(checks, words, strict=True))
    answered = AnsweredTrial(trial(path), tuple(checks), answers[:judged])
    return ladder_data(planned, answered, checks, where.store, None if control is None else control.model)


def shown(*by_steps: tuple[int, str]) -> list[tuple[int, dict[int, bool]]]:
    """Attempts by steps; "0110" says which prompts show the concept, "." which are not tried any more."""
    return [(steps, {i: hit == "1" for i, hit in enumerate(hits) if hit != "."}) for steps, hits in by_steps]


def test_rungs_are_those_of_the_registry_from_free_to_dear() -> None:
    rungs = known_rungs()
    assert [next(iter(rungs)), {rung.attack for rung in rungs.values()} - {""}] == ["detach", {*attacks}]
    costs = [ATTACK_COSTS.index(rung.cost) for rung in rungs.values()]
    assert costs == sorted(costs)
    assert len(rungs) == 1 + sum(len(attacks[name].rungs) for name in attacks)
    taught = {name for name, rung in rungs.items() if rung.teaches}
    assert {"relearning-1", "recall", "unlearn-diff-atk", "resurgence", "concept-inversion"} <= taught
    assert not taught & {"detach", "wordings", "sampler", "merge", "rounding", "derived-embedding", "ring-a-bell"}
    assert {"sampler", "steps-and-guidance", "relearning-5-full", "merge", "rounding"} <= rungs.keys()


def test_a_new_attack_is_a_rung_without_a_list(monkeypatch) -> None:
    own = replace(attacks["wordings"], name="shouting", place=LadderPlace("sampling", rungs={"loud": {}, "low": {}}))
    monkeypatch.setitem(attacks._known, "shouting", own)
    names = list(known_rungs())
    assert names.index("wordings") < names.index("loud") < names.index("ring-a-bell")
    assert [rung.name for rung in named_rungs(("low", "detach"))] == ["detach", "low"]


def test_the_least_budget_is_where_half_of_the_prompts_show_it(pizza, where) -> None:
    course = {
        "wordings": (shown((0, "0000"), (1, "1000"), (3, ".100")), shown((0, "1111"))),
        "concept-inversion": (shown((0, "0000"), (500, "0000")), shown((0, "1111"))),
        "relearning-5": (shown((0, "1100"), (1, "..00")), shown((0, "1111"))),
    }
    ladder = climbed(pizza, where, course, [True] * 4, [False] * 4)
    words, inversion, relearning = ladder.rungs
    assert (words.needed.steps, words.needed.queries, words.needed.pictures) == (3, 2.75, 0)
    assert (words.success.value, words.floor.value, words.ceiling.value) == (0.5, 0.0, 1.0)
    assert inversion.needed is None, "never is no number"
    assert (inversion.spent.steps, inversion.spent.pictures) == (500, 12)
    assert (relearning.needed.steps, relearning.needed.pictures, relearning.spent.pictures) == (0, 0, 5)
    assert ladder.first_fall == words
    assert budget_text(relearning) == "nothing"
    assert [rung.may_teach for rung in ladder.rungs] == [False, True, True]


def test_a_floor_that_is_a_picture_costs_that_picture(pizza, where) -> None:
    course = {name: (shown((0, "1111")), shown((0, "1111"))) for name in ("recall", "inpainting", "sdedit")}
    ladder = climbed(pizza, where, course, [True] * 4, [False] * 4)
    needed = {rung.name: (rung.needed.steps, rung.needed.pictures) for rung in ladder.rungs}
    assert needed == {"recall": (0, 1), "inpainting": (0, 1), "sdedit": (0, 0)}
    assert {rung.name: budget_text(rung) for rung in ladder.rungs}["recall"].startswith("1 query, 0 steps, 1 picture")


def test_a_control_says_what_would_be_taught(pizza, where, tmp_path) -> None:
    """With the unedited model's pictures; rungs that teach nothing do not run on it."""
    control = EditedModel("moji", dtype="bfloat16")
    course = {
        "merge": (shown((0, "0000"), (1, "1111")), shown((0, "1111"))),
        "relearning-1": (shown((0, "0000"), (8, "1110")), shown((0, "1111")), shown((0, "0000"), (8, "0001"))),
    }
    merge, relearning = climbed(pizza, where, course, [True] * 4, [False] * 4, control).rungs
    assert (merge.control, merge.may_teach) == (None, False)
    assert (relearning.control.value, relearning.success.value, relearning.may_teach) == (0.25, 0.75, False)
    asked = suite("relearning-1")
    checks = asked.checks(("pizza",))[:4]
    (one,) = plan_ladder(trial(pizza), asked, checks, knowledge_from_table("pizza"), SPEC, JUDGE, control)
    (task,), (same,) = one.controls, one.ceilings
    assert (task.subject, task.teacher, same.teacher) == (control, EditedModel(), None)
    assert len({task.id, same.id, replace(task, teacher=None).id}) == 3


def test_an_edit_beside_the_model_falls_at_the_first_rung_and_a_baked_one_cannot(pizza, beside, where) -> None:
    (rung,) = climbed(beside, where, {"detach": ()}, [True, True, False, False], [False] * 4).rungs
    assert rung.needed.model_dump() == FREE
    assert (rung.success.value, rung.reason) == (0.5, None)
    (rung,) = climbed(beside, where, {"detach": ()}, [True, False, False, False], [False] * 4).rungs
    assert rung.needed is None
    (rung,) = climbed(pizza, where, {"detach": ()}, [True] * 4, [False] * 4).rungs
    assert (rung.needed, rung.success) == (None, None)
    assert "no part that could be left out" in rung.reason


def test_what_is_missing_is_counted_and_is_no_least_budget(pizza, where) -> None:
    (rung,) = climbed(pizza, where, {"wordings": ()}, [True] * 4, [False] * 4).rungs
    assert (rung.needed, rung.missing) == (None, 8)


def test_a_plain_prompt_that_is_not_judged_yet_is_missing_where_the_edit_is_left_out(beside, where) -> None:
    (rung,) = climbed(beside, where, {"detach": ()}, [False] * 4, [False] * 4, judged=1).rungs
    assert (rung.success, rung.needed, rung.missing) == (None, None, 3)


def test_bad_input_is_one_line(beside) -> None:
    with pytest.raises(SettingsError, match="strength 0: nothing of the edit is left to attack"):
        plan_attack(AttackOptions(name="ladder", concepts="pizza", edits=beside, strength=0.0, out=beside.parent / "o"))
    with pytest.raises(SettingsError, match="one concept at a time, not for 2: name one"):
        plan_attack(AttackOptions(name="ladder", concepts=("pizza", "moon"), edits=beside, out=beside.parent / "o"))
    with pytest.raises(UnknownName, match="no rung 'merg'; did you mean 'merge'"):
        named_rungs(("merg",))
    with pytest.raises(RequestError, match="name each once"):
        named_rungs(("merge", "merge"))
    with pytest.raises(RequestError, match="no rung can reach edit: merge mixes weights; the edit changes no weight"):
        require_a_rung(trial(beside), suite("merge"), JUDGE)
    require_a_rung(trial(beside), suite("merge", "rounding"), JUDGE)


def test_the_chart_has_a_bar_for_each_rung_that_was_tried(pizza, where) -> None:
    course = {
        "wordings": (shown((0, "0000"), (1, "1100")), shown((0, "1111"))),
        "merge": (shown((0, "0000"), (3, "0000")), shown((0, "1111"))),
        "detach": (),
    }
    ladder = climbed(pizza, where, course, [True] * 4, [False] * 4)
    root = ElementTree.fromstring(ladder_svg(ladder))
    bars = [float(rect.get("width")) for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == [165.0, 0.0]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "2 queries, 1 step" in " ".join(texts)
    assert "more than 2 queries, 3 steps" in " ".join(texts)


@pytest.mark.slow
def test_a_weak_edit_falls_at_the_first_rung_that_acts_on_it(pizza, where) -> None:
    context = replace(where, spec=replace(SPEC, steps=20))
    asked = suite("detach", "wordings", "merge", prompts=2)
    weak = trial(pizza, strength=0.02)
    (finding,), tally = examine_trials([weak], asked, context)
    assert tally.complete
    detach, words, merge = finding.ladder.rungs
    assert detach.reason
    assert finding.ladder.first_fall == words
    assert (words.needed.steps, merge.needed.steps) == (0, 0)
    assert {name for name, _ in finding.adversarial_files} == {"wordings", "merge"}
