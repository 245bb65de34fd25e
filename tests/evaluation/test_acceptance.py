"""What the harness itself must keep: no network, intervals that cover, a report without unknown fields."""

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from tests.evaluation.test_harness import pizza as pizza
from tests.evaluation.test_harness import trial
from tests.evaluation.test_harness import where as where
from tests.evaluation.test_suites import CONCEPTS, evidence
from unconcept.evaluation.judging import judge as judges
from unconcept.evaluation.judging.evidence import TrialEvidence
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.suites.registry import Suite, suites
from unconcept.evaluation.suites.speed import body_part_figures
from unconcept.evaluation.tasks import draw as drawing
from unconcept.evaluation.tasks import edited_model as subjects
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.trials.finding import Finding
from unconcept.evaluation.trials.report import group_rows
from unconcept.evaluation.trials.trial import RunContext, answer_trials
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.metrics.i2p import COUNTING_RULES
from unconcept.prompts.checks import GroupSizes
from unconcept.report.data import ReportData
from unconcept.scorers import NOTHING_LABEL, AnswerReader, scorers
from unconcept.scorers.registry import ScorerInfo

SCHEMA = ReportData.model_json_schema()
# Named by methods, attacks, reasons and the judge, not by the report.
OPEN = {"settings", "reasons", "report", "out_of_reach", "instead"}
BEFORE, AFTER, RUNS = 0.9, 0.2, 200


@pytest.mark.slow
def test_a_small_evaluation_needs_no_network(pizza, tmp_path, monkeypatch) -> None:
    def refused(*given: object, **named: object) -> None:
        pytest.fail(f"the network was asked for: {given} {named}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)
    subjects._view.cache_clear()
    judges.open_scorer.cache_clear()
    report = evaluate(
        EvaluationRun(("pizza",), tmp_path / "o", (pizza,), suite="smoke", limit=1, workers=1, store=tmp_path / "s")
    )
    assert report.status == "ok"


class Planted:
    """A scorer that knows nothing: it says yes with a known chance, drawn anew for each run."""

    name, version = "planted", 1

    def __init__(self, path: Path) -> None:
        self.hash, self.rng = path.name, random.Random(int(path.name))

    def score(self, pictures: torch.Tensor, asked: list[str]) -> list[dict[str, bool]]:
        return [{"shown": self.rng.random() < (AFTER if picture.mean() > 0.5 else BEFORE)} for picture in pictures]


@pytest.mark.slow
def test_intervals_cover_a_planted_truth(pizza, where, monkeypatch) -> None:
    """200 runs through store, scores and tables: about 95 % of the intervals hold the rates that were planted."""

    def blank(task: drawing.DrawTask, store) -> None:
        for key in task.keys:
            store.save(key, torch.full((3, 8, 8), float(task.subject.edit_path is not None)))

    monkeypatch.setattr(drawing.DrawTask, "run", blank)
    monkeypatch.setattr(EditedModel, "key", property(lambda self: str(self.edit_hash)))
    reader = AnswerReader(lambda opened, raw, check: check.labels[0] if raw["shown"] else NOTHING_LABEL)
    monkeypatch.setitem(scorers._known, "planted", ScorerInfo("planted", Planted, "picture", None, "", reader))
    suite, truth = (
        Suite("planted", "", GroupSizes(40, 0), group_checks),
        {"before": BEFORE, "after": AFTER, "change": AFTER - BEFORE, "nothing": 1 - AFTER},
    )
    held = dict.fromkeys(truth, 0)
    one = trial(pizza)
    for number in range(RUNS):
        (answered,), _ = answer_trials(
            [one], suite, RunContext(where.store, where.record, where.spec, Judge("planted", str(number)), 1)
        )
        (row,) = group_rows(Finding(answered))
        for name, value in truth.items():
            rate = getattr(row, name)
            held[name] += rate.low <= value <= rate.high
    assert all(0.9 <= count / RUNS <= 0.99 for count in held.values()), held


def objects(part: object, name: str = "") -> Iterator[tuple[str, dict]]:
    """Every table that the schema describes, by the name it stands under."""
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield name, part
        for key, inner in part.items():
            yield from objects(inner, name if key in ("anyOf", "items", "properties", "$defs") else key)
    elif isinstance(part, list):
        for inner in part:
            yield from objects(inner, name)


def test_the_schema_knows_every_field() -> None:
    described = list(objects(SCHEMA))
    assert len(described) > 15
    for name, table in described:
        assert name in OPEN or table["additionalProperties"] is False or "enum" in table["propertyNames"], name
        assert name in OPEN or set(table.get("required", ())) <= set(table.get("properties", ())), name


def named(figures) -> list[str]:
    return [figure.name for figure in figures]


def test_unknown_figures_are_refused() -> None:
    """Each suite's own names pass; any other is no figure of ours."""
    check = Draft202012Validator({**SCHEMA["$defs"]["FigureData"]["properties"]["name"]})
    made = [
        name
        for suite in ("unlearncanvas", "continual", "speed-many")
        for name in named(suites[suite].figures(evidence(suite, CONCEPTS[suite], 0.5)))
    ]
    found = evidence("i2p", ("bomb",))
    box = {"boxes": [{"class": "FEMALE_BREAST_EXPOSED", "score": 0.9}]}
    made += named(suites["i2p"].figures(found))
    made += named(
        body_part_figures(
            TrialEvidence(("nudity",), found.answers[:1], dict, Judge("nudenet"), lambda: [(box, {"boxes": []})])
        )
    )
    assert len(made) > 3 * len(COUNTING_RULES)
    made += [
        "cubic-mmd@clip:clip, dog face",
        "distance@moji-judge-features, far",
        "CLIP score@moji-clip, direct",
        "teacher: woman",
    ]
    assert [name for name in made if not check.is_valid(name)] == []
    for name in ("FID", "fid@inception, far", "UAA", "total", "total, ours", ""):
        assert not check.is_valid(name), name
