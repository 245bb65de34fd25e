"""Parts of docs/attacks.md: which cells they hold, and rates pooled over concepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from benchmarks.attack_cells import Cell, CellKey, Count
from unconcept.evaluation.attacks.ladder import known_rungs
from unconcept.metrics.intervals import Rate, clustered_share

TEACHES = "†"
Cells = Mapping[CellKey, Cell]


@dataclass(frozen=True)
class Section:
    """A part of the page: rows of edits, rungs, and whether the ladder's budgets stand there too."""

    title: str
    model: str
    labels: tuple[str, ...]
    concepts: tuple[str, ...]
    rungs: tuple[str, ...]
    has_ladder: bool = False
    is_transposed: bool = False
    """Whether a row is a rung, and a column an edit."""


def own_cells(one: Section, cells: Cells, label: str, rung: str) -> list[Cell]:
    """The cells of one edit and rung, in the order of the concepts."""
    return [cells[label, rung, name] for name in one.concepts if (label, rung, name) in cells]


def has_cells(one: Section, cells: Cells, label: str) -> bool:
    """Whether anything was measured of an edit."""
    return any(own_cells(one, cells, label, rung) for rung in one.rungs)


def access_of(rung: str) -> str:
    """What it needs, with a mark if it may teach."""
    own = known_rungs()[rung]
    return f"{own.access} {TEACHES}" if own.teaches else own.access


def pooled(cells: Sequence[Cell], name: str) -> Rate:
    """A rate over all prompts, with an interval over concepts."""
    return pooled_counts({cell.concept: cell.counts[name] for cell in cells if name in cell.counts})


def pooled_counts(counts: Mapping[str, Count]) -> Rate:
    """The same of hits and prompts by concept."""
    hits = list(chain.from_iterable([True] * yes + [False] * (n - yes) for yes, n in counts.values()))
    clusters = list(chain.from_iterable(repeat(name, n) for name, (_, n) in counts.items()))
    return clustered_share(hits, clusters)
