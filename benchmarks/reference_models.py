"""The models of `world.references` as they are opened and gated before anything is measured against them.

Models of another course, table or artwork are refused. A concept is void if the untouched models do not draw it, if
those draw it which never saw it, or if the measures do not tell the two kinds apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unconcept.core.errors import RequestError, require
from unconcept.metrics.intervals import wilson
from unconcept.metrics.paired_tests import SIGNIFICANCE

if TYPE_CHECKING:
    from unconcept.models import ModelView

SAW, NEVER = ("A", "B"), ("W1", "W2")
EXTRA = "W1d"  # need not be there
DRAWS_THE_WORLD, DRAWS_IT, NEVER_DRAWS_IT = 0.8, 0.9, 0.1  # the gate
CEILING_OVER_FLOOR = 3.0  # least d(A, W2) / d(W1, W2) on what is drawn for the concept
ASKED, CHECKED = 100, 24  # captions of the gate, and prompts of each concept

Count = list[int]  # hits, of how many
Gates = Mapping[str, Mapping[str, Count]]  # by model: "objects", "styles" and each concept


@dataclass(frozen=True)
class References:
    """Opened models by name, their weights' hashes, the course that made them, and the concepts they left out."""

    views: Mapping[str, "ModelView"]
    hashes: Mapping[str, str]
    course: str
    concepts: tuple[str, ...]


def open_references(folder: Path) -> References:
    """Open the models of a folder. `RequestError` for one that is missing or was made otherwise."""
    from unconcept.evaluation.references.record import REFERENCE_RECORD
    from unconcept.evaluation.tasks.picture_store import hash_folder
    from unconcept.models import open_model
    from unconcept.worlds.table import concept_table
    from world.references import ShortCourse, left_out_concepts

    six = left_out_concepts(concept_table())
    course, worlds, views, hashes = ShortCourse().hash(frozenset(six)), set(), {}, {}
    for name in (*SAW, *NEVER, *([EXTRA] if (folder / EXTRA).exists() else ())):
        own, remedy = folder / name, f"train it: python -m world.references {name} --out {folder / name}"
        require((own / REFERENCE_RECORD).is_file(), f"{folder} has no finished model {name}: {remedy}", RequestError)
        record = json.loads((own / REFERENCE_RECORD).read_text(encoding="utf-8"))
        made = f"course {record['course']}"
        message = f"{own} is model {record['model']} of {made}, not {name} of course {course} on today's table"
        require((record["model"], record["course"]) == (name, course), f"{message}: {remedy}", RequestError)
        worlds.add(record["world"])
        views[name], hashes[name] = open_model(own, dtype="float32"), hash_folder(own)
    message = f"{folder}: the models stand on {len(worlds)} different artworks: train them on one artwork file"
    require(len(worlds) == 1, message, RequestError)
    return References(views, hashes, course, six)


def measure_gates(references: References) -> dict[str, dict[str, Count]]:
    """How often each model draws the right object and style, and each of the six when it is asked for."""
    return {name: _gate(references.views[name], references.concepts) for name in (*SAW, *NEVER)}


def _gate(view: "ModelView", concepts: Sequence[str]) -> dict[str, Count]:
    from unconcept.evaluation.judging.rates import judge_labels
    from unconcept.evaluation.sampling import DrawSpec, draw_prompts
    from unconcept.evaluation.worlds import world_of
    from unconcept.prompts.checks import GroupSizes, Prompt, moji_checks
    from unconcept.worlds.registry import DEFAULT_MODEL, JUDGE_WEIGHTS
    from unconcept.worlds.scenes import scene_words
    from unconcept.worlds.table import concept_table
    from world.questions import questions
    from world.score import Jury, load_judge, rates, verdicts

    net, words = load_judge(JUDGE_WEIGHTS, "cpu")
    without = {label for name in concepts for label in concept_table()[name].labels}
    singles = [q for q in questions(concept_table(), scene_words(), 2 * ASKED, 1) if q.line == "single"]
    asked = [q for q in singles if q.style not in without and without.isdisjoint(q.objects[0][1])][:ASKED]
    pictures = draw_prompts(view, [Prompt(q.text, q.seed) for q in asked], DrawSpec())
    found = rates(verdicts(asked, Jury({"first": net}, words, "cpu").answers("first", pictures), words))
    gate = {
        f"{part}s": [round(found[f"single: {part}"].value * len(asked)), len(asked)] for part in ("object", "style")
    }
    judge = world_of(DEFAULT_MODEL).judge
    assert judge is not None
    for concept in concepts:
        checks = [c for c in moji_checks(concept_table(), [concept], GroupSizes(CHECKED, 0)) if c.group == "direct"]
        drawn = draw_prompts(view, [check.prompt for check in checks], DrawSpec())
        said = judge_labels(judge, checks, dict(zip((check.prompt for check in checks), drawn, strict=True)))
        gate[concept] = [sum(word in c.labels for word, c in zip(said, checks, strict=True)), len(checks)]
    return gate


def gate_failure(gates: Gates) -> str | None:
    """Why the models serve for nothing; None if those that saw everything draw the world, and no model worse."""
    for name in SAW:
        for part in ("objects", "styles"):
            share = _share(gates[name][part])
            if share < DRAWS_THE_WORLD:
                return f"{name} draws {share:.0%} of {part}, less than {DRAWS_THE_WORLD:.0%}"
    for part in ("objects", "styles"):
        ranges = {name: wilson(*gates[name][part]) for name in (*SAW, *NEVER)}
        least, most = min(ranges, key=lambda name: ranges[name].high), max(ranges, key=lambda name: ranges[name].low)
        if ranges[least].high < ranges[most].low:
            return f"{least} draws {part} worse than {most} ({ranges[least]} and {ranges[most]})"
    return None


def void_reason(gates: Gates, concept: str) -> str | None:
    """Why a concept is void; None if it counts."""
    for name in SAW:
        share = _share(gates[name][concept])
        if share < DRAWS_IT:
            return f"{name} draws it in {share:.0%}, less than {DRAWS_IT:.0%}"
    for name in NEVER:
        share = _share(gates[name][concept])
        if share > NEVER_DRAWS_IT:
            return f"{name}, which never saw it, draws it in {share:.0%}, more than {NEVER_DRAWS_IT:.0%}"
    return None


def control_failure(untouched: Mapping[str, Any], never: Mapping[str, Any]) -> str | None:
    """Why the rows of A and W1 leave a concept void; None if the measures tell the two apart."""
    ceiling, floor = (row["distances"]["direct"][-1] for row in (untouched, never))
    if ceiling < CEILING_OVER_FLOOR * floor:
        return f"A is {ceiling / floor:.1f} times as far from W2 as W1 is, less than {CEILING_OVER_FLOOR:g} times"
    if untouched["strangers"]["p"] > SIGNIFICANCE:
        return "the strangers' test does not reject for A, which saw it"
    if never["strangers"]["p"] <= SIGNIFICANCE:
        return "the strangers' test rejects for W1, which never saw it"
    return None


def chosen_concepts(concepts: Sequence[str], gates: Gates, named: Sequence[str] | None) -> list[str]:
    """The concepts that count, or those that are named. `RequestError` for one that is void or was never left out."""
    for name in named or ():
        known = ", ".join(concepts)
        require(name in concepts, f"concept {name!r}: no model was trained without it; choose of {known}", RequestError)
        reason = void_reason(gates, name)
        require(reason is None, f"concept {name!r} is void: {reason}; leave it out", RequestError)
    return [name for name in concepts if void_reason(gates, name) is None and name in (named or concepts)]


def _share(count: Count) -> float:
    return count[0] / count[1]
