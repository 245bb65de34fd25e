"""The results tables on `moji`: methods beside each other, UCE on more concepts, concepts erased together, trainings
under several seeds, parts that few-shot erasing trains: `make results`. On another embedded model, by `--model`,
methods beside each other alone.

What is measured is kept in the repository (`benchmarks.kept_trials`), edit by edit, so that the same command goes on
after being stopped, on another machine too, and `--methods X` adds X alone. The page is made of all kept rows whose
world, judge, questions and settings are the present ones; `--from-kept` only writes it.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results_page
from benchmarks.kept import name_for, present_basis
from benchmarks.measuring import Table, measure
from benchmarks.report_concepts import report_concepts, seed_concepts, spread, together
from benchmarks.variants import encoder_parts, main_method, rivals, scripts, trained
from unconcept.cli.console import quiet_libraries
from unconcept.worlds.registry import DEFAULT_MODEL, worlds

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant

OBJECTS = 18  # of the report objects, spread evenly over the table


def tables(model: str = DEFAULT_MODEL, limit: int | None = None) -> dict[str, Table]:
    """All tables of a model by name, in the order of the page."""
    drawn = tuple((name,) for name in report_concepts())
    if model != DEFAULT_MODEL:
        return {"rivals": Table("results", partial(rivals, model=model), drawn, model=model)}

    def rows(named: str | None) -> tuple["Variant", ...]:
        return (*rivals(named), *scripts(named))

    many = tuple((name,) for name in spread("report", OBJECTS, limit))
    return {
        "rivals": Table("results", rows, drawn),
        "uce": Table("results", main_method, many),
        "together": Table("together", rivals, tuple(together().values())),
        "trained": Table("results", trained, tuple((name,) for name in seed_concepts())),
        "parts": Table("results", encoder_parts, tuple((name,) for name in seed_concepts())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=[*worlds], help="embedded model")
    parser.add_argument(
        "--tables", help=f"separated by commas, of {', '.join(tables())}; every one of the model by default"
    )
    parser.add_argument("--methods", help="to measure, separated by commas; every one by default")
    parser.add_argument("--limit", type=int, help="concepts of table uce at most, spread over the kinds")
    parser.add_argument("--max-minutes", type=float, help="of all tables; what is finished by then is kept")
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    args = parser.parse_args()
    known = tables(args.model, args.limit)
    asked = args.tables.split(",") if args.tables else list(known)
    if unknown := set(asked) - known.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(known)}")
    quiet_libraries()
    if not args.from_kept:
        out = Path("out") / name_for(args.model, "results")
        measure([known[name] for name in asked], args.methods, args.max_minutes, out)
    write_page(args.docs, args.model)


def write_page(docs: Path, model: str = DEFAULT_MODEL) -> None:
    """Write docs/results.md, or another model's docs/results-MODEL.md, and its chart."""
    known, page_name = tables(model), name_for(model, "results")
    found = {name: table.found() for name, table in known.items()}
    stale = list(dict.fromkeys(line for _, lines in found.values() for line in lines))
    rows = results_page.Found(
        {name: trials for name, (trials, _) in found.items()},
        {name: table.labels for name, table in known.items()},
        {name: table.requests for name, table in known.items()},
    )
    text, chart = results_page.page(present_basis(model), rows, stale, model)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / f"{page_name}.md").write_text(text, encoding="utf-8")
    (docs / f"{page_name}.svg").write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main()
