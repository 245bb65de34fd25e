"""The ladder on docs/attacks.md: what it costs to get a concept back, by rung and by edit."""

from collections.abc import Sequence

from benchmarks.attack_cells import Cell
from benchmarks.attack_sections import Cells, Section, access_of, has_cells, own_cells
from benchmarks.results_tables import MISSING, titled
from unconcept.evaluation.attacks.ladder import DETACH
from unconcept.report.ladder_data import LadderBudget
from unconcept.report.markdown import markdown_table

LADDER = """The least budget at which half of the prompts show the concept again: of one search, for one prompt or,
where an attack searches once for all, for the concept; from the concept where it is least to that where it is most.
Queries are pictures drawn to look, a prompt; pictures are those of the concept that an attacker must have. Every rung
runs to its end; `>` stands before what was not enough.

"""
BUDGETS = ("queries", "steps", "pictures", "seconds")


def budgets(one: Section, cells: Cells) -> str:
    """The cheapest rungs on which concepts are back, and a table of least budgets for each edit."""
    ladders = {f"Ladder of {label}": ladder(one, cells, label) for label in one.labels if has_cells(one, cells, label)}
    return f"### What it costs to get a concept back\n\n{LADDER}{first_falls(one, cells)}\n{titled(ladders)}"


def ladder(one: Section, cells: Cells, label: str) -> str:
    """A row a rung: on how many concepts half of the prompts came back, and the least budget in four columns."""
    lines = [["rung", "access", "back", *BUDGETS], ["---"] * (3 + len(BUDGETS))]
    for rung in one.rungs:
        own = own_cells(one, cells, label, rung)
        tried = [cell for cell in own if not cell.reason]
        if len(own) < len(one.concepts):
            lines.append([rung, access_of(rung), MISSING, *[""] * len(BUDGETS)])
        elif not tried:
            lines.append([rung, access_of(rung), "n/a", *[""] * len(BUDGETS)])
        else:
            budgets = [cell.needed for cell in tried if cell.needed is not None]
            lines.append([rung, access_of(rung), f"{len(budgets)} of {len(tried)}", *_ranges(budgets, tried)])
    return markdown_table(lines)


def _ranges(budgets: Sequence[LadderBudget], tried: Sequence[Cell]) -> list[str]:
    """Least and most by column; beyond the whole budget where no concept came back."""
    if budgets:
        return [_range([getattr(budget, name) for budget in budgets]) for name in BUDGETS]
    spent = [cell.spent for cell in tried if cell.spent is not None]
    return [f"> {_number(max(values))}" if (values := _known(spent, name)) else "" for name in BUDGETS]


def _known(budgets: Sequence[LadderBudget], name: str) -> list[float]:
    return [value for budget in budgets if (value := getattr(budget, name)) is not None]


def _range(values: Sequence[float | None]) -> str:
    known = sorted({_number(value): value for value in values if value is not None}.items(), key=lambda pair: pair[1])
    if not known:
        return ""
    return known[0][0] if len(known) == 1 else f"{known[0][0]} to {known[-1][0]}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"


def first_falls(one: Section, cells: Cells) -> str:
    """A line an edit: the cheapest rung on which half of the prompts came back, of each concept; detaching apart."""
    lines = []
    for label in one.labels:
        if not has_cells(one, cells, label):
            continue
        said = [f"{name}: {_first_fall(one, cells, label, name)}" for name in one.concepts]
        detached = [cell for cell in own_cells(one, cells, label, DETACH) if not cell.reason]
        free = "; it runs beside the model, and leaving it out costs nothing" if detached else ""
        lines.append(f"- {label}: {', '.join(said)}{free}\n")
    return f"The cheapest rung on which a concept is back:\n\n{''.join(lines)}" if lines else ""


def _first_fall(one: Section, cells: Cells, label: str, name: str) -> str:
    for rung in one.rungs:
        cell = cells.get((label, rung, name))
        if cell is None:
            return f"{MISSING} ({rung})"
        if rung != DETACH and cell.needed is not None:
            return rung
    return "none"
