"""`benchmarks.references`: what is refused, what a row holds, and what the page makes of rows."""

import json
from contextlib import nullcontext

import pytest

from benchmarks import reference_page
from benchmarks.reference_labels import NEVER_SAW, OTHER_WORD, UNTOUCHED
from benchmarks.reference_models import (
    References,
    chosen_concepts,
    control_failure,
    gate_failure,
    open_references,
    void_reason,
)
from unconcept.core.errors import RequestError
from unconcept.evaluation.references.record import REFERENCE_RECORD
from unconcept.worlds.table import concept_table
from world.references import ShortCourse, left_out_concepts

GATES = {
    name: {"objects": [90, 100], "styles": [85, 100], "bus": [22, 24], "sneaker": [23, 24]} for name in ("A", "B")
} | {name: {"objects": [90, 100], "styles": [85, 100], "bus": [1, 24], "sneaker": [9, 24]} for name in ("W1", "W2")}


def test_a_concept_is_void_unless_one_draws_it_and_the_others_do_not():
    assert void_reason(GATES, "bus") is None
    assert void_reason(GATES, "sneaker") == "W1, which never saw it, draws it in 38%, more than 10%"
    weak = {**GATES, "A": {**GATES["A"], "bus": [12, 24]}}
    assert void_reason(weak, "bus") == "A draws it in 50%, less than 90%"
    assert gate_failure(GATES) is None
    assert gate_failure({**GATES, "B": {**GATES["B"], "styles": [70, 100]}}) == "B draws 70% of styles, less than 80%"
    worse = gate_failure({**GATES, "W2": {**GATES["W2"], "objects": [70, 100]}})
    assert worse.startswith("W2 draws objects worse than A (70.0% [")
    assert chosen_concepts(("bus", "sneaker"), GATES, None) == ["bus"]
    with pytest.raises(RequestError, match="concept 'sneaker' is void: W1, which never saw it"):
        chosen_concepts(("bus", "sneaker"), GATES, ["sneaker"])
    with pytest.raises(RequestError, match="'key': no model was trained without it; choose of bus, sneaker"):
        chosen_concepts(("bus", "sneaker"), GATES, ["key"])


def test_models_that_are_missing_or_of_another_course_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"no finished model A: train it: python -m world\.references A --out"):
        open_references(tmp_path)
    course = ShortCourse().hash(frozenset(left_out_concepts(concept_table())))
    (tmp_path / "A").mkdir()
    for model, made in (("A", "0123"), ("B", course)):
        record = {"model": model, "course": made, "world": "w"}
        (tmp_path / "A" / REFERENCE_RECORD).write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(RequestError, match=f"is model {model} of course {made}, not A of course {course} on today"):
            open_references(tmp_path)


def row(label, distance, p, steps, shown=0):
    places = {place: [distance, distance] for place in ("direct", "near", "far")}
    places |= {place: [distance] for place in ("artwork", "no text")}
    curve = [[0, 0.0]] + ([[steps, 1.0]] if steps else [])
    return {
        "label": label,
        "concept": "bus",
        "distances": places,
        "strangers": {"difference": 0.0, "p": p, "prompts": 24},
        "shown": {"direct": [shown, 24]},
        "instead": [["car", 20]],
        "pictures": f"{label}.webp",
        "relearning": [curve] * 5,
    }


ROWS = [
    row(UNTOUCHED, 6.0, 0.001, 0, 24),
    row(NEVER_SAW, 2.0, 0.9, 64),
    {"label": OTHER_WORD, "concept": "bus", "relearning": [[[0, 0.0], [128, 1.0]]]},
    row("hides", 5.8, 0.001, 4),
    row("half", 4.0, 0.3, 32),
    row("forgets", 2.2, 0.4, 64),
    row("fails", 6.0, 0.001, 1, 12),
    row("breaks", 2.2, 0.4, None),
]


def test_the_page_gives_a_plain_verdict_and_never_is_censored():
    basis = {"models": dict.fromkeys(("A", "B", "W1", "W2"), "0" * 64), "sizes": {"judged": 12, "steps": 512}}
    text, chart = reference_page.page(basis, GATES, ROWS)
    table = text.partition("## Methods")[2].partition("## What is drawn instead")[0]
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table.splitlines()}
    assert cells["hides"][-1] == "avoids"
    assert cells["half"][-1] == "partly removes"
    assert cells["forgets"][-1] == "as if never learned, within what this can show"
    assert cells["fails"][-1] == "not erased"
    assert cells["breaks"][-3:-1] == ["never", "at most -7.00"]
    assert (cells[NEVER_SAW][2], cells[UNTOUCHED][2], cells["half"][2]) == ("0.00", "1.00", "0.50")
    assert cells[UNTOUCHED][1] == "24 of 24"
    assert "sneaker is void: W1, which never saw it" in text
    assert "| bus | hides | car 20 of 24 | ![hides](references/hides.webp) |" in text
    assert "hides" in chart


def test_a_concept_is_void_unless_the_measures_tell_the_two_kinds_apart():
    def control(distance: float, p: float) -> dict:
        return {"concept": "bus", "distances": {"direct": [0.0, distance]}, "strangers": {"p": p}}

    assert control_failure(control(6.0, 0.001), control(2.0, 0.9)) is None
    assert (
        control_failure(control(5.6, 0.001), control(2.0, 0.9))
        == "A is 2.8 times as far from W2 as W1 is, less than 3 times"
    )
    assert "does not reject for A" in control_failure(control(6.0, 0.2), control(2.0, 0.9))
    assert "rejects for W1" in control_failure(control(6.0, 0.001), control(2.0, 0.04))
    rows = [control(2.0, 0.001) | {"label": UNTOUCHED}, control(2.0, 0.9) | {"label": NEVER_SAW}]
    assert "1.0 times as far" in reference_page.void_reasons(GATES, ["bus", "sneaker"], rows)["bus"]
    assert list(reference_page.void_reasons(GATES, ["bus", "sneaker"], rows[:1])) == ["sneaker"]


def test_baselines_come_first_and_as_far_as_their_models_are_there():
    from benchmarks.references import cells

    found = cells(["bus", "flat"], "uce", ("A", "B", "W1", "W2"))
    assert [(cell.label, cell.model) for cell in found if cell.concept == "bus"] == [
        (UNTOUCHED, "A"),
        (NEVER_SAW, "W1"),
        (OTHER_WORD, "W1"),
        ("uce", "A"),
        ("uce on W1", "W1"),
    ]
    assert len(cells(["bus"], "uce", ("A", "B", "W1", "W2", "W1d"))) == 6


@pytest.mark.slow
def test_a_model_is_nowhere_from_itself_and_an_edit_is_somewhere(artwork, tmp_path):
    from benchmarks import references as benchmark
    from benchmarks.reference_measures import ConceptMeasures, MeasureSizes
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.evaluation.worlds import world_of
    from unconcept.models import open_model
    from unconcept.worlds.registry import JUDGE_WEIGHTS
    from world.score import load_judge

    moji = open_model("moji", dtype="float32")
    opened = References(
        dict.fromkeys(("A", "B", "W1", "W2"), moji), dict.fromkeys(("A", "B", "W1", "W2"), "0"), "c", ("bus",)
    )
    sizes = MeasureSizes(prompts=2, each=2, orders=1, judged=2, steps=2, timesteps=2, sampling_steps=2)
    for concept in ("flat", "bus"):
        judges = (world_of("moji").judge, load_judge(JUDGE_WEIGHTS, "cpu")[0])
        stand = ConceptMeasures(opened, concept, artwork, sizes, judges)
        same, pictures = stand.row(moji, nullcontext, is_relearned=False)
        assert pictures.shape == (2, 3, 64, 64)
        assert all(value == [0] * len(value) for value in same["distances"].values())
        assert same["strangers"]["difference"] == 0
        if concept == "flat":
            continue
        cell = benchmark.Cell("uce", concept, "A", variant_of_method("uce"))
        found = benchmark.measure_cell(cell, opened, stand, tmp_path)
        assert (tmp_path / "pictures" / found["pictures"]).stat().st_size < 20_000
        assert all(value[-1] > 0 for value in found["distances"].values())
        assert [steps for steps, _ in found["relearning"][0]] == [0, 1, 2]
        benchmark.keep_row(tmp_path, {"models": {}}, json.loads(json.dumps(found)))
    assert len(benchmark.kept_rows(tmp_path, {"models": {}})) == 1
    assert not benchmark.kept_rows(tmp_path, {"models": {"A": "other"}})
