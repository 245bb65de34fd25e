"""Cells of the attack tables: one rung of the ladder against one edit, tried on one concept. They are kept in
`benchmarks/measured/attacks`, of another model than the default one in `attacks-MODEL`: a file a row of the tables, a
line a cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kept import FOLDER, Row, name_for, read_rows, write_rows
from unconcept.attacks import attacks
from unconcept.core.escapes import file_name_text
from unconcept.core.hashing import hash_json
from unconcept.evaluation.attacks.ladder import known_rungs
from unconcept.evaluation.attacks.rates import AttackRow
from unconcept.prompts.checks import Check
from unconcept.report.ladder_data import LadderBudget, RungData

FILES, SUITE = "attacks", "attack"
RATES = ("pre", "floor", "success", "ceiling", "nothing")
CONTROL = "never saw"  # rate on a model that never saw the concept
Count = tuple[int, int]  # hits, prompts
CellKey = tuple[str, str, str]


@dataclass(frozen=True)
class Cell:
    """What one rung did to one edit on some prompts of one concept."""

    label: str
    """The row of the tables: a method, a variant of one, a ledger."""
    rung: str
    concept: str
    made: str
    """Hash of what the edit was made with."""
    asked: str
    """Hash of the rung's settings and of the prompts."""
    reason: str = ""
    """Why it is n/a, the mechanism; "" if it was tried."""
    counts: Mapping[str, Count] = field(default_factory=dict)
    """Prompts that show the concept: unattacked, by the first input, in all, on the unedited model; and those in whose
    last picture the judge knows nothing."""
    controls: Mapping[str, Count] = field(default_factory=dict)
    may_teach: bool = False
    """Whether it may have taught the concept, and no model was there that never saw it."""
    needed: LadderBudget | None = None
    """The least budget at which half of the prompts show the concept."""
    spent: LadderBudget | None = None
    seconds: float = 0.0
    """Of search, over all prompts."""
    taken: float = 0.0
    """Of everything, on one core, the unedited model included: what another such cell may take."""

    @property
    def key(self) -> CellKey:
        return self.label, self.rung, self.concept

    def row(self) -> Row:
        """As it is kept: a reason, or all figures."""
        row: Row = {name: getattr(self, name) for name in ("label", "rung", "concept", "made", "asked")}
        if self.reason:
            return row | {"reason": self.reason}
        row |= {"counts": {name: list(pair) for name, pair in self.counts.items()}}
        row |= {"controls": {name: list(pair) for name, pair in self.controls.items()}, "may_teach": self.may_teach}
        for name in ("needed", "spent"):
            budget = getattr(self, name)
            row[name] = budget and budget.model_dump(mode="json")
        return row | {"seconds": round(self.seconds, 1), "taken": round(self.taken, 1)}

    @classmethod
    def of_row(cls, row: Row) -> "Cell":
        """The cell again."""
        data = dict(row)
        for name in ("counts", "controls"):
            data[name] = {what: (hits, n) for what, (hits, n) in row.get(name, {}).items()}
        for name in ("needed", "spent"):
            data[name] = LadderBudget.model_validate(row[name]) if row.get(name) else None
        return cls(**data)


def cell_of(names: CellKey, hashes: tuple[str, str], rung: RungData, row: AttackRow | None, taken: float) -> Cell:
    """The cell of a finished rung; `row` are the rates of its attack, None where no attack is needed."""
    if rung.reason:
        return Cell(*names, *hashes, reason=rung.reason)
    source: Any = rung if row is None else row
    counts = {name: _count(rate) for name in RATES if (rate := getattr(source, name, None)) is not None}
    controls = {one.name: _count(one.rate) for one in row.controls} if row else {}
    if rung.control is not None:
        controls[CONTROL] = _count(rung.control)
    found = {"counts": counts, "controls": controls, "may_teach": rung.may_teach}
    seconds = row.seconds if row else 0.0
    return Cell(*names, *hashes, **found, needed=rung.needed, spent=rung.spent, seconds=seconds, taken=taken)


def _count(rate: Any) -> Count:
    return round(rate.value * rate.n), rate.n


def asked_checks(concept: str) -> list[Check]:
    """The prompts of a cell: the first ones that name the concept."""
    from unconcept.evaluation.suites.registry import suites

    suite = suites[SUITE]
    return [check for check in suite.checks((concept,)) if check.group == "direct"][: suite.prompts_per_attack]


def asked_hash(rung: str, concept: str, model: str) -> str:
    """Hash of a rung's settings on this model and of its prompts about the concept."""
    from benchmarks.attack_tuning import whole_settings

    own = known_rungs()[rung]
    settings = whole_settings(own.attack, own.changes or {}, model) if own.attack in attacks else {}
    prompts = [[check.prompt.text, check.prompt.seed] for check in asked_checks(concept)]
    return hash_json([own.attack, settings, prompts])[:12]


def place_of(model: str, folder: Path = FOLDER) -> Path:
    """The folder of a model's cells."""
    return folder / name_for(model, FILES)


def keep_cells(cells: Sequence[Cell], basis: Row, model: str, folder: Path = FOLDER) -> None:
    """Merge cells into the kept ones: the same row, rung and concept replace; a file of another basis begins anew."""
    for label in dict.fromkeys(cell.label for cell in cells):
        path = place_of(model, folder) / f"{file_name_text(label)}.json"
        head, older = read_rows(path)
        known = {(row["label"], row["rung"], row["concept"]): row for row in (older if head == basis else [])}
        known |= {cell.key: cell.row() for cell in cells if cell.label == label}
        write_rows(path, basis, [known[key] for key in sorted(known)])


def kept_cells(basis: Row, model: str, folder: Path = FOLDER) -> tuple[list[Cell], list[str]]:
    """All kept cells of a model on this basis; a line for each file of another."""
    found, stale = list[Cell](), list[str]()
    for path in sorted(place_of(model, folder).glob("*.json")):
        head, rows = read_rows(path)
        if head != basis:
            stale.append(f"{path.stem}: measured on another model, table, judge or sampler")
            continue
        found += map(Cell.of_row, rows)
    return found, stale
