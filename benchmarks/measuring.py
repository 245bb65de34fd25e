"""Measures what a table lacks, a variant after the other, and keeps it in the repository."""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kept import FOLDER, present_basis
from benchmarks.kept_trials import KeptTrial, keep_trials, kept_trials
from benchmarks.variants import current_trials
from benchmarks.whole import whole_or_exit
from benchmarks.workload import Work, estimate
from unconcept.cli.console import exit_codes, progress
from unconcept.core.escapes import file_name_text
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant


@dataclass(frozen=True)
class Table:
    """Which variants erase which concepts, and what they are asked."""

    suite: str
    variants: Callable[[str | None], tuple["Variant", ...]]
    """Of the methods that are named, separated by commas; of all if none is."""
    requests: tuple[tuple[str, ...], ...]
    limit: int | None = None
    """Prompts in a group at most; None for as many as the suite asks."""
    model: str = DEFAULT_MODEL
    """Embedded model that is edited."""
    seed: int = 0
    """Draws every prompt from other noise."""
    folder: Path = FOLDER
    """Where its trials are kept."""

    @property
    def labels(self) -> list[str]:
        """Its rows."""
        return [one.label for one in self.variants(None)]

    def found(self) -> tuple[list[KeptTrial], list[str]]:
        """Its kept trials that were made as they would be made now, and a line on each part that is left out."""
        trials, others = kept_trials(self.suite, present_basis(self.model), self.folder, self.limit, self.seed)
        found, past = current_trials(trials, self.variants(None), self.requests, self.model)
        return found, [*others, *past]


def page_parser(about: str, out: Path) -> ArgumentParser:
    """The options of a benchmark that keeps what it measures and writes a page of it; `about` says what it is."""
    parser = ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--max-minutes", type=float, help="start nothing new after this; the same command goes on")
    parser.add_argument("--out", type=Path, default=out, help="folder of what is under way")
    parser.add_argument("--kept", type=Path, default=FOLDER, help="folder of what is finished")
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    return parser


def measure(chosen: Sequence[Table], methods: str | None, max_minutes: float | None, out: Path) -> None:
    """Measure what no kept row tells, and keep it; `SystemExit` if time ran out."""
    from unconcept.jobs.evaluate import evaluate

    todo = [work for table in chosen for work in missing(table, methods)]
    print(estimate(todo), flush=True)
    end, reports = time.monotonic() + 60 * (max_minutes or 0), []
    with exit_codes(), progress(quiet=False) as tell:
        for work in todo:
            left = None if max_minutes is None else max(0.0, (end - time.monotonic()) / 60)
            report = evaluate(work.run(out / work.place / file_name_text(work.variant.label), left), tell)
            keep_trials(report.data(), work.folder, work.limit)
            reports.append(report)
            if report.missing and left is not None and time.monotonic() > end:
                break
    whole_or_exit(reports)


def missing(table: Table, methods: str | None) -> list[Work]:
    """What the table lacks, by variant."""
    known = {(one.label, one.concepts) for one in table.found()[0]}
    todo = []
    for variant in table.variants(methods):
        requests = tuple(names for names in table.requests if (variant.label, names) not in known)
        if requests:
            more = {"seed": table.seed, "folder": table.folder}
            todo.append(Work(table.suite, variant, requests, table.limit, table.model, **more))
    return todo
