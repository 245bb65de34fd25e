"""The harness on `moji` itself: pairing, sharing, missing pieces, and a report that says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from unconcept.core.errors import DataError
from unconcept.core.request import RequestSpec
from unconcept.edits import origin_of
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.judging.evidence import SuiteFigure
from unconcept.evaluation.judging.image_metrics import image_quality_figures
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.sampling import DrawSpec, draw_prompts
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.suites.registry import Suite
from unconcept.evaluation.tasks import edited_model as drawing
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.tasks.runner import TaskRecord
from unconcept.evaluation.trials.bench import examine_trials
from unconcept.evaluation.trials.finding import notes_of
from unconcept.evaluation.trials.report import group_rows as group_rows
from unconcept.evaluation.trials.trial import RunContext, Trial, answer_trials
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.models.model_view import SamplingStart
from unconcept.prompts.checks import GroupSizes, Prompt, seeded_prompt

SPEC, JUDGE = DrawSpec(steps=2, batch_size=4), Judge("moji-judge")
SUITE = Suite("two", "", GroupSizes(2, 2), group_checks, image_quality_figures)


@pytest.fixture(scope="module")
def pizza(tmp_path_factory) -> Path:
    """An edit that takes pizza out."""
    path = tmp_path_factory.mktemp("edits") / "pizza.safetensors"
    arm = variant_of_method("uce")
    make_edit(EditedModel().base(), resolve_request(RequestSpec(("pizza",)), "moji"), "uce", arm.settings).save(path)
    return path


@pytest.fixture
def where(tmp_path) -> RunContext:
    return RunContext(PictureStore(tmp_path / "store"), TaskRecord(tmp_path / "r.sqlite"), SPEC, JUDGE, workers=1)


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """How many pictures each call drew."""
    counted, real = [], drawing.draw_prompts

    def counting(model, prompts, spec, *tick):
        counted.append(len(prompts))
        return real(model, prompts, spec, *tick)

    monkeypatch.setattr(drawing, "draw_prompts", counting)
    return counted


def trial(path: Path, label: str = "uce") -> Trial:
    from unconcept.edits import load_edit

    return Trial(label, ("pizza",), EditedModel.of(EditedModel(), path), load_edit(path))


@pytest.mark.slow
def test_an_edit_of_nothing_changes_nothing(pizza, where, tmp_path) -> None:
    from unconcept.edits import load_edit

    whole = load_edit(pizza)
    nothing = replace(whole, x=0 * whole.x).stamped(origin_of(whole))
    nothing.save(tmp_path / "nothing.safetensors")
    (finding,), tally = examine_trials([trial(tmp_path / "nothing.safetensors")], SUITE, where)
    assert tally.complete
    assert all(answer.before == answer.after for answer in finding.answered_trial.answers)
    rows = group_rows(finding)
    assert all((row.change.value, row.p, row.detectable) == (0, None, None) for row in rows), "two pictures a group"
    distances = [figure for figure in finding.figures if not figure.name.startswith(("CLIP", "variety"))]
    assert len(distances) == 4
    assert all(figure.value == 0 for figure in distances)
    assert all(figure.value == figure.before for figure in finding.figures)
    subject, answers = finding.answered_trial.trial.subject, finding.answered_trial.answers
    for answer in answers:
        sides = [where.store.load(side.picture_key(SPEC, answer.check.prompt)) for side in (subject.unedited, subject)]
        assert torch.equal(*sides)


def test_pictures_know_neither_batch_nor_order() -> None:
    model = EditedModel().base()
    prompts = [seeded_prompt(f"a {name}", i) for i, name in enumerate(("goat", "pizza", "crown"))]
    together = draw_prompts(model, prompts, DrawSpec(2, batch_size=8))
    alone = draw_prompts(model, prompts[::-1], DrawSpec(2, batch_size=1)).flip(0)
    assert (together - alone).abs().max() <= 1 / 255


def test_drawing_tells_of_every_step() -> None:
    """The shares add up to the pictures, also where drawing begins at a picture."""
    model, prompts = tiny.shared("sd1"), [Prompt("a dog", i) for i in range(3)]
    for start, steps in ((lambda noise: noise, 4), (lambda noise: SamplingStart(noise, 2), 2)):
        told: list[float] = []
        draw_prompts(model, prompts, DrawSpec(4, batch_size=2), told.append, start)
        shares = [share for share in told if share > 1e-9]
        assert shares == pytest.approx(steps * [2 / steps] + steps * [1 / steps])


def test_the_unedited_model_is_drawn_once(pizza, where, drawn) -> None:
    """Two edits, then a second suite over the same prompts, then the same again."""
    one_each = GroupSizes(1, 1)
    (first, second), tally = answer_trials(
        [trial(pizza), trial(pizza, "again")], Suite("one", "", one_each, group_checks), where
    )
    assert tally.complete
    assert first.answers == second.answers
    prompts = len({check.prompt for check in first.checks})
    assert sum(drawn) == 2 * prompts
    answer_trials(
        [trial(pizza)],
        Suite("other", "", one_each, group_checks),
        RunContext(where.store, TaskRecord(where.record.path.with_name("other")), SPEC, JUDGE, workers=1),
    )
    assert sum(drawn) == 2 * prompts


@pytest.mark.slow
def test_a_lost_picture_is_drawn_again_alone(pizza, where, drawn) -> None:
    (one,), _ = answer_trials([trial(pizza)], SUITE, where)
    kept = {path: path.read_bytes() for path in where.store.root.rglob("*.png")}
    lost = where.store.path(one.trial.subject.picture_key(SPEC, one.checks[0].prompt))
    lost.unlink()
    late = RunContext(where.store, where.record, SPEC, JUDGE, workers=1, deadline=0.0)
    (partial,), tally = answer_trials([trial(pizza)], SUITE, late)
    assert (tally.left, partial.missing > 0) == (1, True)
    drawn.clear()
    (again,), tally = answer_trials([trial(pizza)], SUITE, where)
    assert drawn == [1]
    assert (again.missing, tally.complete) == (0, True)
    assert again.answers == one.answers
    assert {path: path.read_bytes() for path in kept if path != lost} == {
        path: data for path, data in kept.items() if path != lost
    }


@pytest.mark.slow
def test_partial_run_says_so_and_goes_on(pizza, tmp_path) -> None:
    run = EvaluationRun(
        ("pizza",), tmp_path / "o", (pizza,), suite="smoke", limit=1, store=tmp_path / "s", max_minutes=0.0, workers=1
    )
    report = evaluate(run)
    assert report.status == "PARTIAL"
    data = json.loads((tmp_path / "o/report.json").read_text())
    assert (data["status"], data["trials"][0]["answered"]) == ("PARTIAL", 0)
    assert data["missing"] == data["trials"][0]["asked"], "each result is counted once"
    assert "PARTIAL" in (tmp_path / "o/report.html").read_text()
    done = evaluate(
        EvaluationRun(("pizza",), tmp_path / "o", (pizza,), suite="smoke", limit=1, store=tmp_path / "s", workers=1)
    )
    assert (done.status, done.missing) == ("ok", 0)
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "report.html",
        "report.json",
        "results.csv",
        "run.json",
    }


def test_a_bench_without_an_edit_yet_has_its_page(tmp_path) -> None:
    report = evaluate(
        EvaluationRun(
            ("pizza",),
            tmp_path / "o",
            variants=(variant_of_method("uce"),),
            suite="smoke",
            limit=1,
            store=tmp_path / "s",
            max_minutes=0.0,
        )
    )
    assert (report.status, report.missing) == ("PARTIAL", 1)
    assert "PARTIAL" in (tmp_path / "o/report.html").read_text()


def test_prompts_about_what_the_judge_does_not_know_are_refused(pizza, tmp_path) -> None:
    """If all of them are; else they are left out and counted."""
    (tmp_path / "p.csv").write_text("prompt,concept,group\na tench,tench,far\na pizzza,pizzza,far\n")
    with pytest.raises(DataError, match=r"the judge knows nothing that its prompts are about \(tench, pizzza\)"):
        evaluate(
            EvaluationRun(
                ("pizza",), tmp_path / "o", (pizza,), prompts=tmp_path / "p.csv", suite="smoke", store=tmp_path / "s"
            )
        )
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.slow
def test_a_bench_compares_methods(tmp_path) -> None:
    arms = variant_of_method("uce"), replace(variant_of_method("uce"), label="twin")
    run = EvaluationRun(
        ("pizza",), tmp_path / "o", variants=arms, suite="smoke", limit=1, store=tmp_path / "s", workers=1
    )
    report = evaluate(run)
    first, second = report.data()["trials"]
    assert (first["label"], second["label"]) == ("uce", "twin")
    assert first["groups"] == second["groups"]
    page = (tmp_path / "o/report.html").read_text()
    assert "far objects still drawn" in page
    assert len(list((tmp_path / "o/edits").glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_concepts_are_erased_together_by_one_edit(tmp_path) -> None:
    pair = ("pizza", "crown")
    run = EvaluationRun(
        pair,
        tmp_path / "o",
        variants=(variant_of_method("uce"),),
        joint_requests=(pair,),
        suite="together",
        limit=2,
        store=tmp_path / "s",
        workers=1,
    )
    (trial,) = evaluate(run).data()["trials"]
    assert trial["concepts"] == list(pair)
    assert {"pizza", "crown"} <= set(trial["edit"]["targets"])
    assert {check["concept"] for check in trial["checks"] if check["group"] == "direct"} == set(pair)


def test_a_suite_may_draw_what_no_judge_is_asked_and_say_what_it_left_out(pizza, where, drawn) -> None:
    """Figures see the pictures of both sides; until they are there, there are no figures and no notes."""
    extra = Prompt("a cup", 7)
    suite = replace(
        SUITE,
        sizes=GroupSizes(1, 0),
        draw=lambda concepts, sizes: [extra],
        figures=lambda found: [SuiteFigure("H", float(extra in found.pictures()), None, 1, "drawn")],
        notes=lambda found: {"note": f"{len(found.drawn)} drawn"},
    )
    late = replace(where, deadline=0.0)
    (none,), _ = examine_trials([trial(pizza)], suite, late)
    assert (none.figures, none.notes) == ((), {})
    (finding,), tally = examine_trials([trial(pizza)], suite, where)
    assert tally.complete
    assert (finding.figures[0].value, notes_of([finding])) == (1.0, {"note": "1 drawn"})
    assert notes_of([finding, replace(finding, notes={"note": "2 drawn"})]) == {
        "note": "1 drawn",
        "note, uce": "2 drawn",
    }
    assert extra not in {answer.check.prompt for answer in finding.answers}
    assert sum(drawn) == 2 * len(finding.answered_trial.prompts)
