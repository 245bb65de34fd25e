"""The results tables on `moji`: methods beside each other, UCE on more concepts, concepts erased together, trainings
under several seeds: `make results`.

What is measured is kept in the repository (`benchmarks.kept_trials`), edit by edit, so that the same command goes on
after being stopped, on another machine too, and `--methods X` adds X alone. The page is made of all kept rows whose
world, judge, questions and settings are the present ones; `--from-kept` only writes it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results_page
from benchmarks.kept import present_basis
from benchmarks.kept_trials import KeptTrial, keep_trials, kept_trials
from benchmarks.report_concepts import report_concepts, seed_concepts, spread, together
from benchmarks.variants import current_trials, rivals, scripts, trained
from benchmarks.whole import whole_or_exit
from benchmarks.workload import Work, estimate
from unconcept.cli.console import exit_codes, progress, quiet_libraries
from unconcept.core.escapes import file_name_text

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant

OUT = Path("out/results")
OBJECTS = 18  # of the report objects, spread evenly over the table
MAIN = "uce"


@dataclass(frozen=True)
class Table:
    """Which variants erase which concepts, and what they are asked."""

    suite: str
    variants: Callable[[str | None], tuple["Variant", ...]]
    """Of the methods that are named, separated by commas; of all if none is."""
    requests: tuple[tuple[str, ...], ...]

    def section(self, trials: Sequence[KeptTrial]) -> tuple[list[KeptTrial], list[str]]:
        """Its trials that were made as they would be made now, and what was left out."""
        return current_trials(trials, self.variants(None), self.requests)


def tables(limit: int | None = None) -> dict[str, Table]:
    """All tables by name, in the order of the page."""

    def main_method(named: str | None) -> tuple["Variant", ...]:
        return tuple(one for one in rivals(named) if one.label == MAIN)

    def rows(named: str | None) -> tuple["Variant", ...]:
        return (*rivals(named), *scripts(named))

    drawn = tuple((name,) for name in report_concepts())
    many = tuple((name,) for name in spread("report", OBJECTS, limit))
    return {
        "rivals": Table("results", rows, drawn),
        "uce": Table("results", main_method, many),
        "together": Table("together", rivals, tuple(together().values())),
        "trained": Table("results", trained, tuple((name,) for name in seed_concepts())),
    }


def main() -> None:
    known = tables()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--tables", default=",".join(known), help=f"separated by commas, {', '.join(known)}; every one by default"
    )
    parser.add_argument("--methods", help="to measure, separated by commas; every one by default")
    parser.add_argument("--limit", type=int, help="concepts of table uce at most, spread over the kinds")
    parser.add_argument("--max-minutes", type=float, help="of all tables; what is finished by then is kept")
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    args = parser.parse_args()
    asked = args.tables.split(",")
    if unknown := set(asked) - known.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(known)}")
    quiet_libraries()
    if not args.from_kept:
        chosen = tables(args.limit)
        measure([chosen[name] for name in asked], args.methods, args.max_minutes)
    write_page(args.docs)


def measure(chosen: Sequence[Table], methods: str | None, max_minutes: float | None) -> None:
    """Measure what no kept row tells, an edit file a variant, and keep it; `SystemExit` if time ran out."""
    from unconcept.jobs.evaluate import evaluate

    todo = [work for table in chosen for work in missing(table, methods)]
    print(estimate(todo), flush=True)
    end, reports = time.monotonic() + 60 * (max_minutes or 0), []
    with exit_codes(), progress(quiet=False) as tell:
        for work in todo:
            left = None if max_minutes is None else max(0.0, (end - time.monotonic()) / 60)
            report = evaluate(work.run(OUT / work.suite / file_name_text(work.variant.label), left), tell)
            keep_trials(report.data())
            reports.append(report)
            if report.status != "ok":
                break
    whole_or_exit(reports)


def missing(table: Table, methods: str | None) -> list[Work]:
    """What the table lacks, by variant."""
    found, _ = table.section(kept_trials(table.suite, present_basis())[0])
    known = {(one.label, one.concepts) for one in found}
    todo = []
    for variant in table.variants(methods):
        requests = tuple(names for names in table.requests if (variant.label, names) not in known)
        if requests:
            todo.append(Work(table.suite, variant, requests))
    return todo


def write_page(docs: Path) -> None:
    """Write docs/results.md and its chart."""
    basis, known = present_basis(), tables()
    stale, found = dict[str, None](), dict[str, list[KeptTrial]]()
    for name, table in known.items():
        trials, others = kept_trials(table.suite, basis)
        found[name], past = table.section(trials)
        stale |= dict.fromkeys((*others, *past))
    labels = {name: [one.label for one in table.variants(None)] for name, table in known.items()}
    requests = {name: table.requests for name, table in known.items()}
    text, chart = results_page.page(basis, results_page.Found(found, labels, requests), list(stale))
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "results.md").write_text(text, encoding="utf-8")
    (docs / "results.svg").write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main()
