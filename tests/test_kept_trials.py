"""Kept trials make the tables that their run made; what was measured on anything else is left out, with one line."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import crowd, kept, kept_trials, measuring, results_page, results_tables, workload
from benchmarks.kept_trials import KeptTrial, keep_trials, request_hash
from benchmarks.variants import current_trials, is_current, scripts, trained
from unconcept.core.settings import build_settings, settings_data
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.tasks.edit_task import EditTask, Variant, variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.trials.variants import variant_rows
from unconcept.jobs.plans.timing import DrawTime
from unconcept.methods import methods
from unconcept.metrics.paired_tests import holm, sign_flip

UCE = variant_of_method("uce")
BREAD, BUS = ("bread",), ("bus",)


def run_trial(variant: Variant, concepts: tuple[str, ...], gone: str = "direct", every: int = 1) -> KeptTrial:
    """As a run gives it: every so many pictures of a group show nothing after the edit."""
    checks = suites["smoke"].checks(concepts)
    after = ["nothing" if one.group == gone and i % every == 0 else one.labels[0] for i, one in enumerate(checks)]
    answers = tuple(PairedAnswer(one, one.labels[0], word) for one, word in zip(checks, after, strict=True))
    return KeptTrial(variant.label, concepts, {"seconds": 0.5, "bytes": 9.0, "parameters": 1}, answers)


def trial_data(variant: Variant, one: KeptTrial) -> dict:
    """The same as `report.json` holds it."""
    task = EditTask(EditedModel(), variant, one.concepts, Path())
    asked, solver = task.chosen.request, methods[variant.method].settings
    checks = [
        {
            "text": each.check.prompt.text,
            "seed": each.check.prompt.seed,
            "group": each.check.group,
            "concept": each.check.concept,
            "before": each.before,
            "after": each.after,
        }
        for each in one.answers
    ]
    made = {"method": variant.method, "base": "moji@2", "kind": asked.kind, "hash": "0" * 64}
    made |= {"settings": settings_data(build_settings(solver, task.settings))}
    made |= {"report": {"drift": 0.123456, "condition": 5.0}}
    made |= {"targets": asked.targets, "anchors": asked.anchors, "retain": asked.retain}
    rest = {"asked": len(checks), "answered": len(checks)}
    figures = [{"name": "variety kept@x, far", "value": 0.5 + len(one.concepts[0]) / 10, "before": 1.0, "n": 2}]
    data = {"label": one.label, "concepts": one.concepts, "edit": made, "cost": one.cost, "checks": checks, **rest}
    return json.loads(json.dumps({**data, "figures": figures}))


def report(*trials: dict, **changed: object) -> dict:
    basis = kept.present_basis()
    judge = dict(zip(("name", "version", "hash"), basis["judge"], strict=True))
    head = {"suite": "smoke", "judge": judge, "table_hash": basis["table"], "drawing": basis["drawing"]}
    return {**head, "trials": list(trials), **changed}


def test_rows_of_another_model_have_a_folder_of_their_own(tmp_path: Path) -> None:
    trial = trial_data(UCE, run_trial(UCE, BREAD))
    flow = {**trial, "edit": {**trial["edit"], "base": "moji-flow@1"}}
    assert keep_trials(report(trial), tmp_path) == keep_trials(report(flow), tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"smoke", "smoke-moji-flow"}
    head, _ = kept.read_rows(tmp_path / "smoke-moji-flow" / "uce.json")
    assert head["models"] == ["moji-flow@1"]
    found, _ = kept_trials.kept_trials("smoke", head, tmp_path)
    assert [one.label for one in found] == ["uce"]


def test_kept_trials_make_the_tables_of_their_run(tmp_path) -> None:
    other = UCE.changed("other", {"lamb": 3.0})
    ran = [run_trial(UCE, BREAD), run_trial(UCE, BUS, every=2), run_trial(other, BREAD, "far"), run_trial(other, BUS)]
    assert keep_trials(report(*map(trial_data, (UCE, UCE, other, other), ran)), tmp_path) == 4
    found, stale = kept_trials.kept_trials("smoke", kept.present_basis(), tmp_path)
    assert not stale
    assert {(one.label, one.concepts) for one in found} == {(one.label, one.concepts) for one in ran}
    ordered, _ = current_trials(found, (UCE, other), (BREAD, BUS))
    assert variant_rows(ordered) == variant_rows(ran)
    assert ordered[0].exact == {"drift": 0.1235}
    assert ordered[0].texts[0] == 3
    assert ordered[0].figures_before == {"variety kept@x, far": 1.0}
    assert results_tables.rates(ordered) == results_tables.rates(ran)
    again = report(trial_data(UCE, run_trial(UCE, BUS)))
    keep_trials(again, tmp_path)
    assert len(kept.read_rows(tmp_path / "smoke" / "uce.json")[1]) == 4
    found, _ = kept_trials.kept_trials("smoke", kept.present_basis(), tmp_path)
    (bus,) = [one for one in found if (one.label, one.concepts) == ("uce", BUS)]
    assert bus.answers == run_trial(UCE, BUS).answers, "the older trial is replaced"


def test_a_trial_keeps_its_own_answers_of_before_where_they_differ(tmp_path) -> None:
    one = trial_data(UCE, run_trial(UCE, BREAD))
    keep_trials(report(one), tmp_path)
    past = one["checks"][3]["before"]
    one["checks"][3]["before"] = "a fox"
    keep_trials(report({**one, "label": "another machine"}), tmp_path)
    found, _ = kept_trials.kept_trials("smoke", kept.present_basis(), tmp_path)
    assert {each.label: each.answers[3].before for each in found} == {"uce": past, "another machine": "a fox"}


def test_what_was_measured_on_anything_else_is_left_out(tmp_path, monkeypatch) -> None:
    keep_trials(report(trial_data(UCE, run_trial(UCE, BREAD))), tmp_path)
    basis = kept.present_basis()
    for part in ("weights", "table", "judge", "drawing"):
        assert kept_trials.kept_trials("smoke", {**basis, part: "another"}, tmp_path) == (
            [],
            ["uce: measured on another model, table, judge or sampler"],
        )
    fewer = {"smoke": suites["smoke"].with_limit(3, 0)}
    monkeypatch.setattr("unconcept.evaluation.suites.registry.suites", fewer)
    assert kept_trials.kept_trials("smoke", basis, tmp_path) == ([], ["uce: 1 of 1 edits were asked other questions"])


def test_an_edit_of_other_settings_or_requests_is_not_current(tmp_path) -> None:
    bare = scripts("uce")[0]
    keep_trials(report(trial_data(UCE, run_trial(UCE, BREAD)), trial_data(bare, run_trial(bare, BREAD))), tmp_path)
    found, _ = kept_trials.kept_trials("smoke", kept.present_basis(), tmp_path)
    assert [one.label for one in current_trials(found, (UCE, bare), (BREAD, BUS))[0]] == ["uce", bare.label]
    changed = UCE.changed("uce", {"lamb": 3.0})
    assert current_trials(found, (changed,), (BREAD,)) == ([], ["uce: 1 of 1 edits had other settings or requests"])
    assert not is_current(found[-1], Variant(bare.label, "uce", bare.settings))
    assert scripts("speed") == ()


def test_a_table_measures_what_it_lacks(tmp_path, monkeypatch) -> None:
    keep_trials(report(trial_data(UCE, run_trial(UCE, BREAD))), tmp_path)
    everything = kept_trials.kept_trials("smoke", kept.present_basis(), tmp_path)
    monkeypatch.setattr(measuring, "kept_trials", lambda *asked: everything)
    table = measuring.Table("smoke", lambda named: (UCE, UCE.changed("other", {"lamb": 3.0})), (BREAD, BUS))
    assert [(work.variant.label, work.requests) for work in measuring.missing(table, None)] == [
        ("uce", (BUS,)),
        ("other", (BREAD, BUS)),
    ]
    monkeypatch.setattr(measuring, "kept_trials", lambda *asked: ([], []))
    assert len(measuring.missing(table, None)[0].prompts) == sum(
        len({check.prompt for check in suites["smoke"].checks(names)}) for names in (BREAD, BUS)
    )


def test_of_many_concepts_an_edit_is_a_row() -> None:
    ran = replace(run_trial(UCE, BREAD), texts=(30, 65), exact={"drift": 0.126, "projector_rank": 348.0})
    lines = crowd.table(["objects"], [("10",), ("17",)], {("10",): ran}).splitlines()
    assert lines[2].startswith("| 10 | 30, 65 | 0.0% [")
    assert lines[2].endswith("| 0.13 | 348 |")
    assert lines[3] == "| 17 | not measured yet |  |  |  |  |  |  |"


def test_fewer_prompts_are_kept_apart(tmp_path) -> None:
    keep_trials(report(trial_data(UCE, run_trial(UCE, BREAD))), tmp_path, limit=2)
    basis = kept.present_basis()
    assert kept_trials.kept_trials("smoke", basis, tmp_path) == ([], [])
    assert kept_trials.kept_trials("smoke", basis, tmp_path, limit=4)[0] == []
    assert kept_trials.kept_trials("smoke", basis, tmp_path, limit=2)[1] == [
        "uce: 1 of 1 edits were asked other questions"
    ]


def test_other_noise_asks_other_questions(tmp_path) -> None:
    """A kept trial is of one seed's pictures: under another it is left out, and named."""
    keep_trials(report(trial_data(UCE, run_trial(UCE, BREAD))), tmp_path)
    basis = kept.present_basis()
    assert kept_trials.kept_trials("smoke", basis, tmp_path, seed=0)[1] == []
    assert kept_trials.kept_trials("smoke", basis, tmp_path, seed=7) == (
        [],
        ["uce: 1 of 1 edits were asked other questions"],
    )
    suite = kept_trials.kept_suite("smoke", None, 7)
    assert not {check.prompt.seed for check in suite.checks(BREAD)} & {
        check.prompt.seed for check in suites["smoke"].checks(BREAD)
    }


def test_hours_are_estimated_of_what_is_left(monkeypatch) -> None:
    """A second a picture: those of both edits and, once, the unedited ones."""
    monkeypatch.setattr("unconcept.jobs.plans.timing.time_drawing", lambda *told, **more: DrawTime(8, 8.0, 0.0))
    monkeypatch.setattr("unconcept.evaluation.tasks.runner.default_workers", lambda count, device: 2)
    monkeypatch.setattr(workload, "seconds_of_edit", lambda method: 1800.0 if method == "uce" else 0.0)
    todo = [workload.Work("smoke", variant, (BREAD,)) for variant in (UCE, Variant("other", "esd"))]
    count = len({check.prompt for check in suites["smoke"].checks(BREAD)})
    assert workload.estimate(todo) == (
        f"To measure: 2 edits of 2 variants, some {3 * count} pictures on 2 cores: {3 * count / 2 / 3600:.2f} hours of"
        " drawing, 0.50 hours of making edits by their tunings; not known: other."
    )
    assert workload.estimate([]) == "Nothing is left to measure."


def test_what_cannot_be_joined_is_refused() -> None:
    assert kept_trials.split_answers(kept_trials.join_answers(["a", "b"], ["a", "c"]), ["a", "c"]) == ["a", "b"]
    for word in ("=", "a|b"):
        with pytest.raises(ValueError, match="it must not be '='"):
            kept_trials.join_answers([word], ["a"])
    assert request_hash(["a"], ["b"], ["c"]) != request_hash(["a"], ["b", "c"], [])
    assert kept_trials.questions_file(Path("x"), ["a", "b"]) != kept_trials.questions_file(Path("x"), ["a b"])


def test_changes_are_tested_by_prompts_with_one_correction_for_the_table() -> None:
    other = UCE.changed("other", {})
    ran = [run_trial(UCE, BREAD), run_trial(other, BREAD, "far", every=2)]
    table = results_tables.changes(ran).splitlines()
    groups = [cell.strip() for cell in table[0].split("|")[2:-1]]
    p = {}
    for one in ran:
        for group in dict.fromkeys(each.check.group for each in one.answers):
            own = [each for each in one.answers if each.check.group == group]
            prompts = [each.check.prompt.text for each in own]
            p[one.label, group] = sign_flip([float(a) - float(b) for b, a in (each.hits for each in own)], prompts)
    corrected = holm({"\0".join(key): value for key, value in p.items()})
    assert len(corrected) == 2 * len(groups)
    cells = dict(zip(groups, [cell.strip() for cell in table[2].split("|")[2:-1]], strict=True))
    assert cells["target"] == "-100 [-100, -100], p n/a", "four prompts cannot reach significance among so many tests"
    assert min(corrected.values()) > 0.05
    assert table[-1].split("|")[2].strip() == "none"


def test_a_change_against_a_reference_pairs_by_picture() -> None:
    other, third = (UCE.changed(label, {}) for label in ("other", "third"))
    ran = [run_trial(UCE, BREAD), run_trial(other, BREAD), run_trial(third, BREAD, "far")]
    beside = results_tables.against(ran, ran[:1])
    assert [one.label for one in beside] == ["other", "third"]
    assert all(answer.before == answer.after for answer in beside[0].answers)
    rows = {row.label: row.groups for row in variant_rows(beside)}
    assert (rows["third"]["direct"].change.value, rows["third"]["far"].change.value) == (1, -1)


def test_trainings_show_their_spread() -> None:
    first, *more = (Variant(label, "esd") for label in ("esd", "esd, seed 1", "esd, seed 2"))
    ran = [run_trial(first, BREAD, "far"), *(run_trial(one, BREAD, "far", every=4) for one in more)]
    labels = {"esd": [one.label for one in (first, *more)], "spm": ["spm", "spm, seed 1"]}
    _, _, esd, spm = results_tables.seeds(ran, labels, (BREAD,)).splitlines()
    shares = [100 * sum(a.hits[1] for a in one.answers if a.check.group == "far") / 4 for one in ran]
    assert shares[0] == 0 < shares[1]
    assert f"| {', '.join(f'{share:.0f}' for share in shares)} %; sd {statistics.stdev(shares):.1f} |" in esd
    assert spm.startswith("| spm | not measured yet |")
    assert [one.label for one in trained("esd,uce")] == labels["esd"]
    assert [one.settings.get("seed") for one in trained("esd")] == [None, 1, 2]


def test_what_is_drawn_instead_is_counted_by_edit() -> None:
    ran = [run_trial(UCE, BREAD)]
    _, _, row = results_tables.instead(ran, ["uce", "speed"], (BREAD, BUS)).splitlines()
    count = len([1 for one in ran[0].answers if one.check.group == "direct"])
    assert row == f"| uce | nothing 100% of {count} | not measured yet |"


def test_the_page_says_what_is_missing_and_what_was_left_out(monkeypatch) -> None:
    monkeypatch.setattr(results_page, "rank_sentence", lambda: "They have a rank.")
    ran = [run_trial(UCE, BREAD), run_trial(UCE, BUS)]
    names = ("rivals", "uce", "together", "trained", "parts")
    found = results_page.Found(
        {**dict.fromkeys(names, ()), "rivals": ran},
        {**dict.fromkeys(names, ()), "rivals": ["uce", "speed"], "trained": ["esd", "esd, seed 1"]},
        dict.fromkeys(names, (BREAD, BUS)),
    )
    text, chart = results_page.page(kept.present_basis(), found, ["rece: measured on another model"])
    assert "Not measured yet: speed (0 of 2 edits)." in text
    assert "- rece: measured on another model\n" in text
    assert "# Results on `moji@2`" in text
    assert "| uce | 0/4; 4/4 | 0/4; 4/4 |" in text
    assert "| esd | not measured yet |" in text
    assert "uce 100%" in chart
    assert text.count("## Few-shot erasing: what moves") == 1
