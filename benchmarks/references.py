"""Erased models beside models that never saw the concept: `python -m benchmarks.references --models FOLDER --data
FILE`.

FOLDER holds A, B, W1 and W2 of `world.references`, FILE is the artwork. Edits are made on A by every method under its
recipe; UCE and ESD also on W1, where there is nothing to erase. A row a method and concept is kept in
`benchmarks/measured/references`, so the same command goes on after being stopped; `--from-kept` only writes the page.
"""

import argparse
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept import FOLDER, Row, read_rows, write_rows
from benchmarks.recipe_edits import recipe_edit
from benchmarks.reference_labels import BASELINES, OTHER_WORD
from benchmarks.reference_models import (
    NEVER,
    SAW,
    References,
    chosen_concepts,
    gate_failure,
    measure_gates,
    open_references,
)
from benchmarks.reference_page import void_reasons
from unconcept.cli.console import EXIT_FAILED, exit_codes, quiet_libraries
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.reference_measures import ConceptMeasures
    from unconcept.evaluation.tasks.edit_task import Variant

PLACE = FOLDER / "references"
ON_NEVER = ("uce", "esd")  # erase nothing: these run on W1 too


@dataclass(frozen=True)
class Cell:
    """One row of one concept: a model, and what erases from it."""

    label: str
    concept: str
    model: str = "A"
    variant: "Variant | None" = None


def cells(concepts: Sequence[str], methods: str | None, models: Collection[str]) -> list[Cell]:
    """Baselines of all concepts first, as far as their models are there, then the methods."""
    from benchmarks.variants import rivals
    from unconcept.methods import methods as known

    arms = [arm for arm in rivals(methods) if arm.method in known]
    there = {label: model for label, model in BASELINES.items() if model in models}
    found = [Cell(label, concept, model) for concept in concepts for label, model in there.items()]
    found += [Cell(arm.label, concept, "A", arm) for arm in arms for concept in concepts]
    on_never = [arm for arm in arms if arm.label in ON_NEVER]
    return found + [Cell(f"{arm.label} on W1", concept, "W1", arm) for arm in on_never for concept in concepts]


def measure_cell(cell: Cell, references: References, measures: "ConceptMeasures", place: Path = PLACE) -> Row:
    """The row of a cell; its pictures are written beside the rows."""
    begun, view = time.process_time(), references.views[cell.model]
    row: Row = {"label": cell.label, "concept": cell.concept, "model": cell.model}
    row["weights"] = references.hashes[cell.model][:12]
    if cell.label == OTHER_WORD:
        from benchmarks.reference_measures import UNKNOWN

        row["relearning"] = measures.curves(view, nullcontext, UNKNOWN)
    elif cell.variant is None:
        own, pictures = measures.row(view, nullcontext)
        row |= own | {"pictures": keep_pictures(place, cell, pictures)}
    else:
        edit = recipe_edit(view, cell.variant, cell.concept, DEFAULT_MODEL)
        own, pictures = measures.row(view, lambda: edit.applied(view))
        row |= own | {"pictures": keep_pictures(place, cell, pictures)}
        row |= {"method": cell.variant.method, "beside": not edit.can_bake(), "edit": edit.hash[:12]}
    return row | {"seconds": round(time.process_time() - begun, 1)}


def keep_pictures(place: Path, cell: Cell, pictures: "Tensor") -> str:
    """Write pictures (n, 3, h, w) beside each other as one small file; its name."""
    from unconcept.core.escapes import file_name_text
    from unconcept.report.images import to_image

    name = file_name_text(f"{cell.label} {cell.concept}") + ".webp"
    path = place / "pictures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    to_image(picture_strip(pictures)).save(path, "WEBP", quality=85)
    return name


def picture_strip(pictures: "Tensor") -> "Tensor":
    """(3, h, n * w) of pictures (n, 3, h, w)."""
    return pictures.permute(1, 2, 0, 3).flatten(2)


def basis_of(references: References, sizes: Any) -> Row:
    """What kept rows stand on."""
    from unconcept.evaluation.worlds import world_of
    from unconcept.worlds.table import concept_table

    judge = world_of(DEFAULT_MODEL).judge
    assert judge is not None
    opened = judge.open()
    return {
        "course": references.course,
        "models": {name: references.hashes[name] for name in (*SAW, *NEVER)},
        "table": concept_table().hash,
        "judge": [opened.name, opened.version, opened.hash],
        "sizes": asdict(sizes),
    }


def kept_gates(references: References, basis: Row, place: Path) -> Row:
    """Gates of the models, measured once."""
    path = place / "models.json"
    head, rows = read_rows(path)
    if head != basis or not rows:
        rows = [measure_gates(references)]
        write_rows(path, basis, rows)
    return rows[0]


def keep_row(place: Path, basis: Row, row: Row) -> None:
    """Merge a row into the file of its method."""
    path = place / f"{row.get('method', 'baselines')}.json"
    head, older = read_rows(path)
    known = {(one["label"], one["concept"]): one for one in (older if head == basis else ())}
    known[row["label"], row["concept"]] = row
    write_rows(path, basis, [known[key] for key in sorted(known)])


def kept_rows(place: Path, basis: Row) -> list[Row]:
    """All kept rows on this basis."""
    return [row for path in sorted(place.glob("*.json")) if path.stem != "models" for row in _rows(path, basis)]


def _rows(path: Path, basis: Row) -> Iterator[Row]:
    head, rows = read_rows(path)
    yield from rows if head == basis else ()


def measure(args: argparse.Namespace, place: Path = PLACE) -> int:
    """Measure what no kept row tells; how many rows are missing then."""
    from benchmarks.reference_measures import ConceptMeasures, MeasureSizes
    from unconcept.evaluation.worlds import world_of
    from unconcept.worlds.registry import JUDGE_WEIGHTS
    from world.artwork import load
    from world.score import load_judge

    references, sizes = open_references(args.models), MeasureSizes()
    basis = basis_of(references, sizes)
    gates = kept_gates(references, basis, place)
    if failure := gate_failure(gates):
        raise SystemExit(f"the references are of no use: {failure}")
    concepts = chosen_concepts(references.concepts, gates, args.concepts)
    known = {(row["label"], row["concept"]) for row in kept_rows(place, basis)}
    todo = [cell for cell in cells(concepts, args.methods, references.views) if (cell.label, cell.concept) not in known]
    print(f"{len(todo)} rows to measure, about ten minutes of one core each", flush=True)
    judge, artwork = world_of(DEFAULT_MODEL).judge, load(args.data)
    assert judge is not None
    judges, stands = (judge, load_judge(JUDGE_WEIGHTS, "cpu")[0]), dict[str, ConceptMeasures]()
    end = None if args.max_minutes is None else time.monotonic() + 60 * args.max_minutes
    for number, cell in enumerate(todo):
        if cell.variant and cell.concept in void_reasons(gates, concepts, kept_rows(place, basis)):
            continue  # Its controls, which come first, do not behave.
        if end is not None and time.monotonic() > end:
            return len(todo) - number
        if cell.concept not in stands:
            stands[cell.concept] = ConceptMeasures(references, cell.concept, artwork, sizes, judges)
        row = measure_cell(cell, references, stands[cell.concept], place)
        keep_row(place, basis, row)
        print(f"{cell.label}, {cell.concept}: {row['seconds']:.0f} CPU s", flush=True)
    return 0


def write_page(docs: Path, place: Path = PLACE) -> None:
    """Write docs/references.md and its chart from the kept rows of the kept models."""
    from benchmarks import reference_page

    basis, gates = read_rows(place / "models.json")
    if not gates:
        raise SystemExit(f"{place / 'models.json'}: no model was measured yet; run without --from-kept")
    text, chart = reference_page.page(basis, gates[0], kept_rows(place, basis))
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "references.md").write_text(text, encoding="utf-8")
    (docs / "references.svg").write_text(chart, encoding="utf-8")
    goal = docs / "references"
    shutil.rmtree(goal, ignore_errors=True)
    if (place / "pictures").exists():
        shutil.copytree(place / "pictures", goal)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="folder of A, B, W1 and W2")
    parser.add_argument("--data", type=Path, help="the artwork file that world.render writes")
    parser.add_argument("--methods", help="to measure, separated by commas; every one by default")
    parser.add_argument("--concepts", nargs="+", help="to measure; all that are not void by default")
    parser.add_argument("--max-minutes", type=float, help="no row is begun later")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    args = parser.parse_args(argv)
    quiet_libraries()
    missing = 0
    if not args.from_kept:
        if args.models is None or args.data is None:
            parser.error("--models and --data are needed, unless --from-kept")
        with exit_codes():
            missing = measure(args)
    write_page(args.docs)
    if missing:
        print(f"{missing} rows are missing: the same command goes on")
        raise SystemExit(EXIT_FAILED)


if __name__ == "__main__":
    main()
