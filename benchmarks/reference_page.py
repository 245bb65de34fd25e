"""docs/references.md: how far erased models are from models that never saw the concept, with a verdict a method."""

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from benchmarks.reference_labels import BASELINES, NEVER_SAW, OTHER_WORD, UNTOUCHED
from benchmarks.reference_models import NEVER, SAW, Gates, control_failure, gate_failure, void_reason
from unconcept.core.errors import DataError
from unconcept.evaluation.references.relearning import steps_until
from unconcept.metrics.never_saw import Saving, relative_position, relearning_saving
from unconcept.report.markdown import markdown_table
from unconcept.report.svg import share_curves_svg

Row = Mapping[str, Any]
LEARNED = 0.5  # share of judged pictures from which the concept counts as learned
PLACES = ("direct", "no text", "artwork", "near", "far")
GONE, NEAR_NEVER, NEAR_UNTOUCHED = 0.1, 0.25, 0.75  # share that is drawn; relative position and saving

_HEAD = """# Removed, or only avoided?

Erased models beside models of one course that never saw the concept: `python -m benchmarks.references`, models by
`python -m world.references` (half a million samples each, from scratch; twins of one seed differ only in the samples
that show a concept that is left out). A saw everything and is what is erased from; B saw everything under another
seed; W1 (A's twin) and W2 (B's) never saw the concepts, nor did their text encoders read their names. What still
knows them: the autoencoder, which all share, and the judge.

r is (d(U, W2) - d(W1, W2)) / (d(A, W2) - d(W1, W2)): 0 never saw it, 1 untouched, above 1 further off than before
erasing. d is the mean square of the difference of predictions on what each model draws itself (near, far: for
neighbours and other objects), under no text and on noised artwork on the artwork of the concept. "Two-way" is r on
the two-way likelihood gap. An unseen word's answer is arbitrary, so an anchor is far from every reference and
harmless: r stands beside what is drawn. "Nearer to B" is the count of concepts whose strangers' test (d(U, W2) <=
d(U, B), signs of whole prompts, 5 %) rejects. Steps until half of {judged} pictures in styles that were not taught
show the concept: median over five orders and all concepts, five pictures, adapters of rank 4; "never" is more than
{steps}. Saving is 1 - S(U) / mean S(W1).

Verdicts, over all concepts: *not erased*, if more than {gone:.0%} of the plain prompts still show it; *as if never
learned, within what this can show*, if the strangers' test rejects for none, and r on artwork, r under no text and
the saving are at most {low}; *avoids*, if r on artwork or the saving is at least {high}; else *partly removes*.
"""
_LIMITS = """
## What this cannot show

One small world and {count} concepts; two seeds an arm, so p values speak of prompts, not of trainings: labels of four
models permute in six ways. Equal outputs on tested prompts do not bound what is hidden, and r near 0 is no
certificate of deletion. Nothing is said of other recipes, larger models, or attacks. FADE (arXiv:2510.12981) compares
with references that were tuned without a concept from weights that had seen it; what is added here, as far as we
found, is the null of two references that never saw it, relearning, and every method on one model.
"""


def page(basis: Row, gates: Gates, rows: Sequence[Row]) -> tuple[str, str]:
    """The page and the chart of relearning."""
    sizes = basis["sizes"]
    head = _HEAD.format(judged=sizes["judged"], steps=sizes["steps"], gone=GONE, low=NEAR_NEVER, high=NEAR_UNTOUCHED)
    names = [name for name in gates["A"] if name not in ("objects", "styles")]
    void = void_reasons(gates, names, rows)
    counted = [name for name in names if name not in void]
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        if row["concept"] in counted:
            by_label.setdefault(row["label"], []).append(row)
    methods = [label for label in by_label if label not in BASELINES]
    parts = [head, _models(basis, gates, names, void)]
    if failure := gate_failure(gates):
        return "\n".join([*parts, f"\nThe references are of no use: {failure}.\n"]), ""
    parts += [_table(by_label, [label for label in (*BASELINES, *methods) if label in by_label], sizes["steps"])]
    parts += ["![relearning](references.svg)\n", _instead(by_label), _LIMITS.format(count=len(counted))]
    return "\n".join(parts), _chart(by_label)


def void_reasons(gates: Gates, concepts: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """Why concepts are void, by the gates and by the controls that were measured."""
    found = {name: reason for name in concepts if (reason := void_reason(gates, name))}
    known = {(row["label"], row["concept"]): row for row in rows}
    for name in concepts:
        pair = [known[label, name] for label in (UNTOUCHED, NEVER_SAW) if (label, name) in known]
        if len(pair) == 2 and name not in found and (reason := control_failure(*pair)):
            found[name] = reason
    return found


def _models(basis: Row, gates: Gates, concepts: Sequence[str], void: Mapping[str, str]) -> str:
    lines = [("model", "weights", "objects", "styles", *concepts), ("---",) * (4 + len(concepts))]
    for name in (*SAW, *NEVER):
        counts = [gates[name][part] for part in ("objects", "styles", *concepts)]
        lines.append((name, basis["models"][name][:12], *(f"{hits} of {n}" for hits, n in counts)))
    said = [f"{name} is void: {reason}." for name, reason in void.items()]
    return "\n".join(["## Models\n", markdown_table(lines), *said, ""])


def positions(rows: Sequence[Row], place: str, by_label: Mapping[str, Sequence[Row]], column: int = -1) -> list[float]:
    """r of each concept at a place; concepts at which nothing tells the references apart are left out."""
    known = {(label, row["concept"]): row for label in BASELINES for row in by_label.get(label, ())}
    found = []
    for row in rows:
        ends = [known.get((label, row["concept"]), {}).get("distances", {}) for label in (NEVER_SAW, UNTOUCHED)]
        own = row.get("distances", {})
        if all(place in some for some in (own, *ends)):
            try:
                found.append(relative_position(*(some[place][column] for some in (own, *ends))))
            except DataError:
                continue
    return found


def steps_of(rows: Sequence[Row]) -> list[int | None]:
    """Steps until the concept is learned, of every order and concept."""
    curves = [curve for row in rows for curve in row.get("relearning", ())]
    return [steps_until({int(steps): share for steps, share in curve}, LEARNED) for curve in curves]


def verdict(rows: Sequence[Row], by_label: Mapping[str, Sequence[Row]], limit: int) -> str:
    """The plain word for a method."""
    hits, asked = (sum(row["shown"]["direct"][i] for row in rows) for i in (0, 1))
    if hits / asked > GONE:
        return "not erased"
    artwork, blank = (positions(rows, place, by_label) for place in ("artwork", "no text"))
    saving = _saving(rows, by_label, limit).value
    if not artwork or not blank or saving is None:
        return "cannot be told"
    highest = max(mean(artwork), mean(blank), saving)
    if highest <= NEAR_NEVER and not any(row["strangers"]["p"] <= 0.05 for row in rows):
        return "as if never learned, within what this can show"
    return "avoids" if max(mean(artwork), saving) >= NEAR_UNTOUCHED else "partly removes"


def _saving(rows: Sequence[Row], by_label: Mapping[str, Sequence[Row]], limit: int) -> Saving:
    own = {row["concept"] for row in rows}
    never = [row for row in by_label.get(NEVER_SAW, ()) if row["concept"] in own]
    try:
        return relearning_saving(steps_of(rows), steps_of(never), limit)
    except DataError:
        return Saving(None)


def _table(by_label: Mapping[str, Sequence[Row]], labels: Sequence[str], limit: int) -> str:
    head = ("", "drawn", "r", "two-way", *PLACES[1:], "nearer to B", "steps", "saving", "verdict")
    lines = [head, ("---",) * len(head)]
    for label in labels:
        rows = by_label[label]
        steps = median(limit + 1 if one is None else one for one in steps_of(rows))
        told = "never" if steps > limit else f"{steps:g}"
        if label == OTHER_WORD:
            lines.append((label, *["-"] * 8, told, "-", "-"))
            continue
        hits, asked = (sum(row["shown"]["direct"][i] for row in rows) for i in (0, 1))
        places = [_mean(positions(rows, place, by_label)) for place in PLACES]
        two_way = _mean(positions(rows, "direct", by_label, 0))
        rejects = sum(row["strangers"]["p"] <= 0.05 for row in rows)
        saving = _saving(rows, by_label, limit)
        share = "-" if saving.value is None else f"{saving.bound} {saving.value:.2f}".strip()
        word = "-" if label in BASELINES else verdict(rows, by_label, limit)
        middle = (f"{rejects} of {len(rows)}", told, share, word)
        lines.append((label, f"{hits} of {asked}", places[0], two_way, *places[1:], *middle))
    note = "An edit that runs beside the model is left out at will: what is left then is A, after 0 steps."
    return "\n".join(["## Methods\n", markdown_table(lines), "", note, ""])


def _mean(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" if values else "-"


def _instead(by_label: Mapping[str, Sequence[Row]]) -> str:
    """What models draw for the name, by concept, from the same noise."""
    lines = [("concept", "", "drawn for its name, of how many", "first prompts, same noise"), ("---",) * 4]
    rows = [(row["concept"], number, row) for number, some in enumerate(by_label.values()) for row in some]
    for concept, _, row in sorted(rows, key=lambda one: one[:2]):
        if "instead" in row:
            said = ", ".join(f"{word} {count}" for word, count in row["instead"])
            seen = f"![{row['label']}](references/{row['pictures']})" if "pictures" in row else ""
            lines.append((concept, row["label"], f"{said} of {row['shown']['direct'][1]}", seen))
    return "\n".join(["## What is drawn instead\n", markdown_table(lines), ""])


def _chart(by_label: Mapping[str, Sequence[Row]]) -> str:
    """Mean share that shows the concept, by doublings of the steps."""
    series = {}
    for label, rows in by_label.items():
        curves = [dict(map(tuple, curve)) for row in rows for curve in row.get("relearning", ())]
        stops = sorted({int(steps) for curve in curves for steps in curve})
        points = [(float(stop.bit_length()), mean(_at(curve, stop) for curve in curves)) for stop in stops]
        if points:
            series[label] = points
    return share_curves_svg(series, "steps, doubling from 1", "shows the concept")


def _at(curve: Mapping[float, float], stop: int) -> float:
    """The share after some steps; a curve that ended had reached all."""
    return curve.get(stop, curve[max(steps for steps in curve if steps <= stop)])
