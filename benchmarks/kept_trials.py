"""Trials that were measured, kept in `benchmarks/measured/SUITE`, of another model than the default one in
`SUITE-MODEL`: what was asked, what a judge saw before and after.

The questions about some concepts stand once, in `questions/CONCEPTS.json`, with the answers on the unedited model. A
trial is a line in `METHOD.json`: its settings, its cost, its figures and its answers in the order of the questions,
"=" where they are those of before. From these the functions that make a run's tables make the same tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept import FOLDER, Row, measured_on, name_for, read_rows, write_rows
from unconcept.core.escapes import file_name_text
from unconcept.core.hashing import hash_json
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.report.data import AttackData
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from unconcept.evaluation.suites.registry import Suite

SEPARATOR, SAME = "|", "="  # no label is or holds either
EXACT = ("residual", "drift", "rank", "projector_rank")  # of an edit's own figures
QUESTION = ("group", "text", "seed", "concept")


@dataclass(frozen=True)
class KeptTrial:
    """One trial as tables need it, beside what it was made with."""

    label: str
    concepts: tuple[str, ...]
    cost: Mapping[str, float]
    answers: tuple[PairedAnswer, ...]
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    request: str = ""
    """Hash of targets, anchors and retained texts."""
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The suite's own figures by name: value, count."""
    figures_before: Mapping[str, float] = field(default_factory=dict)
    """Those of the unedited model, as far as they are defined."""
    texts: Sequence[int] = ()
    """How many it erases, and how many it retains."""
    exact: Mapping[str, float] = field(default_factory=dict)
    """Figures of the solve."""
    attack_results: tuple[AttackData, ...] = ()
    """Always none: cells of attacks are kept apart (`benchmarks.attack_cells`)."""
    out_of_reach: Mapping[str, str] = field(default_factory=dict)


def keep_trials(report: Mapping[str, Any], folder: Path = FOLDER, limit: int | None = None) -> int:
    """Merge the complete trials of a `report.json` into the kept ones; how many they are.

    A trial of the same label and concepts replaces an older one; a file of another basis is begun anew. `limit`:
    prompts in a group at most, if the run had fewer than its suite asks.
    """
    basis = measured_on(report)
    place = folder / _folder_name(report["suite"], limit, basis)
    whole = [trial for trial in report["trials"] if _is_complete(trial)]
    for method in dict.fromkeys(trial["edit"]["method"] for trial in whole):
        path = place / f"{method}.json"
        head, older = read_rows(path)
        known = {_key(row): row for row in (older if head == basis else [])}
        for trial in whole:
            if trial["edit"]["method"] == method:
                row = _row(trial, _asked(place, basis, trial))
                known[_key(row)] = row
        write_rows(path, basis, [known[key] for key in sorted(known)])
    return len(whole)


def _is_complete(trial: Mapping[str, Any]) -> bool:
    return bool(trial["answered"] == trial["asked"])


def _folder_name(suite: str, limit: int | None, basis: Row) -> str:
    model = basis["models"][0].partition("@")[0] if basis["models"] else DEFAULT_MODEL
    name = name_for(model, suite)
    return name if limit is None else f"{name}-{limit}"


def kept_suite(suite: str, limit: int | None = None, seed: int = 0) -> "Suite":
    """The suite with at most so many prompts in a group, drawn from the noise of a seed."""
    from unconcept.evaluation.suites.registry import suites

    return suites[suite].with_limit(limit, seed)


def _key(row: Row) -> tuple[str, str]:
    return row["label"], str(row["concepts"])


def questions_file(place: Path, concepts: Sequence[str]) -> Path:
    """The file of the questions about concepts that are erased together."""
    name = file_name_text(" ".join(concepts))
    return place / "questions" / f"{name if len(concepts) == 1 else f'{name[:40]}-{hash_json(concepts)[:8]}'}.json"


def _asked(place: Path, basis: Row, trial: Mapping[str, Any]) -> list[Row]:
    """The kept questions of the trial; its own if none or others are kept."""
    path = questions_file(place, trial["concepts"])
    head, rows = read_rows(path)
    asked = [{name: check[name] for name in (*QUESTION, "before")} for check in trial["checks"]]
    wanted = {"concepts": trial["concepts"], **basis}
    if head != wanted or digest(rows) != digest(asked):
        write_rows(path, wanted, asked)
        return asked
    return rows


def digest(questions: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what is asked, in its order, without the answers."""
    return hash_json([[one[name] for name in QUESTION] for one in questions])[:12]


def _row(trial: Mapping[str, Any], asked: Sequence[Row]) -> Row:
    made, before, after = trial["edit"], *([check[side] for check in trial["checks"]] for side in ("before", "after"))
    row = {
        "label": trial["label"],
        "concepts": trial["concepts"],
        "kind": made["kind"],
        "settings": made["settings"],
        "request": request_hash(made["targets"], made["anchors"], made["retain"]),
        "texts": [len(made["targets"]), len(made["retain"])],
        "exact": {name: float(f"{made['report'][name]:.4g}") for name in EXACT if name in made["report"]},
        "edit": made["hash"][:12],
        "cost": trial["cost"],
        "figures": {one["name"]: [float(f"{one['value']:.5g}"), one["n"]] for one in trial["figures"]},
        "figures_before": {
            one["name"]: float(f"{one['before']:.5g}") for one in trial["figures"] if one.get("before") is not None
        },
        "questions": digest(asked),
        "after": join_answers(after, before),
    }
    usual = [one["before"] for one in asked]
    return row if before == usual else {**row, "before": join_answers(before, usual)}


def request_hash(targets: Sequence[str], anchors: Sequence[str], retain: Sequence[str]) -> str:
    """Hash of what an edit was asked for."""
    return hash_json([list(targets), list(anchors), list(retain)])[:12]


def join_answers(answers: Sequence[str], usual: Sequence[str]) -> str:
    """The answers as one text, those that are as usual by a mark."""
    for answer in answers:
        if SEPARATOR in answer or answer == SAME:
            raise ValueError(f"answer {answer!r}: it must not be {SAME!r} or hold {SEPARATOR!r}")
    return SEPARATOR.join(SAME if one == other else one for one, other in zip(answers, usual, strict=True))


def split_answers(text: str, usual: Sequence[str]) -> list[str]:
    """The answers that `join_answers` joined."""
    return [other if one == SAME else one for one, other in zip(text.split(SEPARATOR), usual, strict=True)]


def kept_trials(
    suite: str, basis: Row, folder: Path = FOLDER, limit: int | None = None, seed: int = 0
) -> tuple[list[KeptTrial], list[str]]:
    """All kept trials of a suite on this basis whose questions are still asked; a line for each file with others."""
    place, asked = folder / _folder_name(suite, limit, basis), kept_suite(suite, limit, seed)
    found, stale = list[KeptTrial](), list[str]()
    for path in sorted(place.glob("*.json")):
        head, rows = read_rows(path)
        if head != basis:
            stale.append(f"{path.stem}: measured on another model, table, judge or sampler")
            continue
        trials = [one for row in rows if (one := _read(row, path.stem, asked, basis, place)) is not None]
        if len(trials) < len(rows):
            stale.append(f"{path.stem}: {len(rows) - len(trials)} of {len(rows)} edits were asked other questions")
        found += trials
    return found, stale


def _read(row: Row, method: str, suite: "Suite", basis: Row, place: Path) -> KeptTrial | None:
    """The trial, if what it was asked is what the suite asks now."""
    head, asked = read_rows(questions_file(place, row["concepts"]))
    checks = suite.checks(row["concepts"])
    now = [(check.group, check.prompt.text, check.prompt.seed, check.concept) for check in checks]
    is_asked = now == [tuple(one[name] for name in QUESTION) for one in asked] and row["questions"] == digest(asked)
    if head != {"concepts": row["concepts"], **basis} or not is_asked:
        return None
    usual = [one["before"] for one in asked]
    before = split_answers(row["before"], usual) if "before" in row else usual
    after = split_answers(row["after"], before)
    return KeptTrial(
        row["label"],
        tuple(row["concepts"]),
        row["cost"],
        tuple(map(PairedAnswer, checks, before, after)),
        method,
        row["settings"],
        row["request"],
        row["figures"],
        row.get("figures_before", {}),
        row["texts"],
        row["exact"],
    )
