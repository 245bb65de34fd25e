"""The attacks tables, cell by cell: `make attacks`, or some cells,
`python -m benchmarks.attacks --methods uce --attacks wordings,sdedit`.

A cell is a row, a rung of the ladder and a concept. Each is kept in the repository once it is finished
(`benchmarks.attack_cells`), so the same command goes on after being stopped, on another machine too. Hours and pictures
are printed first; `--from-kept` only writes the page.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attack_cells import Cell, asked_hash, kept_cells
from benchmarks.attack_runs import AttackWork, estimate, run
from benchmarks.attack_sections import Section
from benchmarks.attacked_edits import AttackedEdit, ledger_edits, method_edits
from benchmarks.attacks_page import page
from benchmarks.kept import FOLDER, present_basis
from benchmarks.measuring import page_parser
from benchmarks.report_concepts import seed_concepts
from benchmarks.variants import HEADLINE, rivals
from unconcept.cli.console import quiet_libraries
from unconcept.worlds.registry import DEFAULT_MODEL

OUT = Path("out/attacks")
FLOW = "moji-flow"
FEWER = ("wordings", "unlearn-diff-atk", "concept-inversion", "recall", "sdedit", "relearning-5")  # every other method
FLOW_METHODS = ("speed", "adavd", "eraseanything")  # a closed form, steering, a training
FLOW_RUNGS = ("unlearn-diff-atk", "concept-inversion", "recall", "sdedit", "resurgence")  # one of each access


@dataclass(frozen=True)
class Part:
    """A part of the page: which edits are attacked, and by which rungs."""

    section: Section
    edits: tuple[AttackedEdit, ...]

    def work(
        self, known: Sequence[Cell], labels: Sequence[str] | None, rungs: Sequence[str] | None
    ) -> list[AttackWork]:
        """What it lacks of these rows and rungs, or of all."""
        have = {cell.key for cell in known}
        todo = []
        for edit in self.edits:
            if labels is None or edit.label in labels:
                lacking = [name for name in self.section.rungs if (edit.label, name, edit.concept) not in have]
                lacking = [name for name in lacking if rungs is None or name in rungs]
                todo += [AttackWork(edit, tuple(lacking), self.section.model)] if lacking else []
        return todo


def parts() -> dict[str, Part]:
    """All parts of the page by name, in its order."""
    from unconcept.evaluation.attacks.ladder import known_rungs

    names, every = seed_concepts(), tuple(known_rungs())
    variants = rivals()
    eight = [one for label in HEADLINE for one in variants if one.label == label]
    others = [one for one in variants if one.label not in HEADLINE]
    flow = rivals(",".join(FLOW_METHODS), FLOW)
    labels = {key: tuple(one.label for one in own) for key, own in (("8", eight), ("all", others), ("flow", flow))}
    ledger = ledger_edits(names)
    matrix = Section("Eight methods, every attack", DEFAULT_MODEL, labels["8"], names, every, True, True)
    book = (ledger[0].label,)
    return {
        "eight": Part(matrix, method_edits(eight, names)),
        "ledger": Part(Section("A ledger of all three", DEFAULT_MODEL, book, names, every, True, True), ledger),
        "others": Part(
            Section("Every other method", DEFAULT_MODEL, labels["all"], names, FEWER), method_edits(others, names)
        ),
        "flow": Part(
            Section("On `moji-flow`", FLOW, labels["flow"], names, FLOW_RUNGS), method_edits(flow, names, FLOW)
        ),
    }


def current(known: dict[str, Part], folder: Path = FOLDER) -> tuple[dict[str, dict], list[str]]:
    """Kept cells by model and key whose edits, settings and prompts are the present ones; a line on the others."""
    made: dict[str, dict[tuple[str, str], str]] = {}
    for part in known.values():
        own = made.setdefault(part.section.model, {})
        own |= {(edit.label, edit.concept): edit.made for edit in part.edits}
    found, stale = dict[str, dict](), list[str]()
    for model, edits in made.items():
        cells, others = kept_cells(present_basis(model), model, folder)
        stale += others
        found[model], past = _present(cells, edits, model)
        stale += past
    return found, stale


def _present(cells: Sequence[Cell], edits: dict, model: str) -> tuple[dict, list[str]]:
    found, past = {}, dict[str, int]()
    hashes = {key: asked_hash(*key, model) for key in {(cell.rung, cell.concept) for cell in cells} if _is_rung(key[0])}
    for cell in cells:
        wanted = edits.get((cell.label, cell.concept)), hashes.get((cell.rung, cell.concept))
        if wanted == (cell.made, cell.asked):
            found[cell.key] = cell
        else:
            past[cell.label] = past.get(cell.label, 0) + 1
    return found, [f"{label}: {count} cells had other settings, requests or prompts" for label, count in past.items()]


def _is_rung(name: str) -> bool:
    from unconcept.evaluation.attacks.ladder import known_rungs

    return name in known_rungs()


def main() -> None:
    known = parts()
    parser = page_parser(__doc__, OUT)
    parser.add_argument(
        "--tables", default=",".join(known), help=f"separated by commas, {', '.join(known)}; every one by default"
    )
    parser.add_argument("--methods", help="rows to measure, separated by commas; every one by default")
    parser.add_argument("--attacks", help="rungs or attacks to try, separated by commas; every one by default")
    args = parser.parse_args()
    asked = args.tables.split(",")
    if unknown := set(asked) - known.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(known)}")
    labels = _named(args.methods, {edit.label for part in known.values() for edit in part.edits}, parser, "row")
    rungs = _rungs_named(args.attacks, parser)
    quiet_libraries()
    if not args.from_kept:
        _measure([known[name] for name in asked], labels, rungs, args)
    found, stale = current(known, args.kept)
    args.docs.mkdir(parents=True, exist_ok=True)
    text = page(present_basis(), [part.section for part in known.values()], found, stale)
    (args.docs / "attacks.md").write_text(text, encoding="utf-8")


def _measure(
    chosen: Sequence[Part], labels: list[str] | None, rungs: list[str] | None, args: argparse.Namespace
) -> None:
    cells, _ = current(parts(), args.kept)
    todo = [work for part in chosen for work in part.work(list(cells[part.section.model].values()), labels, rungs)]
    for model in dict.fromkeys(work.model for work in todo):
        own = [work for work in todo if work.model == model]
        print(f"{model}: {estimate(own, list(cells[model].values()), model)}", flush=True)
    run(todo, args.max_minutes, args.out, args.kept)


def _named(text: str | None, allowed: set[str], parser: argparse.ArgumentParser, what: str) -> list[str] | None:
    if text is None:
        return None
    names = text.split(",")
    if unknown := set(names) - allowed:
        parser.error(f"no {what} {min(unknown)!r}: allowed are {', '.join(sorted(allowed))}")
    return names


def _rungs_named(text: str | None, parser: argparse.ArgumentParser) -> list[str] | None:
    """The rungs of these names, and all rungs of attacks of these names."""
    from unconcept.evaluation.attacks.ladder import known_rungs

    known = known_rungs()
    attacks = {rung.attack for rung in known.values() if rung.attack}
    names = _named(text, {*known, *attacks}, parser, "attack")
    return names and [rung.name for rung in known.values() if rung.name in names or rung.attack in names]


if __name__ == "__main__":
    main()
