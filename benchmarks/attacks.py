"""The attacks tables: every attack on UCE's edits of the drawn report concepts, with fewer prompts on every method's,
and apart from them on UCE's edits of the seen concepts: `make attacks`.

What is measured is kept in the repository, as by `benchmarks.results`; ceilings are computed once a picture store.
"""

import argparse
from pathlib import Path

from benchmarks.kept import present_basis
from benchmarks.measuring import Table, measure
from benchmarks.report_concepts import report_concepts, seen_concepts
from benchmarks.results_tables import whole
from benchmarks.variants import main_method, rivals
from unconcept.cli.console import quiet_libraries

OUT = Path("out/attacks")
SUITE = "attack"
FEWER = 2  # prompts a concept, of the table of rivals
TITLES = {"uce": "UCE", "rivals": "Methods beside each other", "seen": "UCE on concepts that were seen"}
HEAD = """# Attacks on `{model}`

Every attack on one edit for each of {count} `report` concepts ({names}), drawn by hash, pooled. ASR: share of prompts
that show the concept unattacked or attacked, by {judge} version {version}, exact 95 % intervals. Floor: the attack's
first input, before any search. Ceiling: the same attack on the unedited model. Rungs go from what anyone can type to
what needs the weights. Seconds are of search alone, one thread. In the second table a row is a method, a cell ASR
(floor, share of prompts in which the judge knows nothing). The seen concepts ({seen}) stand apart.

Made by `make attacks` of the rows in `benchmarks/measured`. A row is missing until its edits were attacked on this
world.

"""


def tables() -> dict[str, Table]:
    """All tables by name, in the order of the page."""
    drawn, seen = (tuple((name,) for name in names()) for names in (report_concepts, seen_concepts))
    return {
        "uce": Table(SUITE, main_method, drawn),
        "rivals": Table(SUITE, rivals, drawn, FEWER),
        "seen": Table(SUITE, main_method, seen),
    }


def main() -> None:
    known = tables()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--tables", default=",".join(known), help=f"separated by commas, {', '.join(known)}; every one by default"
    )
    parser.add_argument("--methods", help="to measure, separated by commas; every one by default")
    parser.add_argument("--max-minutes", type=float, help="of all tables; what is finished by then is kept")
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    args = parser.parse_args()
    asked = args.tables.split(",")
    if unknown := set(asked) - known.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(known)}")
    quiet_libraries()
    if not args.from_kept:
        measure([known[name] for name in asked], args.methods, args.max_minutes, OUT)
    args.docs.mkdir(parents=True, exist_ok=True)
    (args.docs / "attacks.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """docs/attacks.md of all kept rows."""
    basis, names = present_basis(), report_concepts()
    text = HEAD.format(
        model=basis["models"][0],
        judge=basis["judge"][0],
        version=basis["judge"][1],
        count=len(names),
        names=", ".join(names),
        seen=", ".join(seen_concepts()),
    )
    sections = {TITLES[name]: section(table) for name, table in tables().items()}
    return text + "\n".join(f"## {title}\n\n{text}" for title, text in sections.items())


def section(table: Table) -> str:
    """A table of the variants whose edits were all attacked, and what is not measured yet or left out."""
    from unconcept.evaluation.trials.variants import variant_rows
    from unconcept.report.markdown import attacks_table

    trials, stale = table.found()
    complete, others = whole(trials, table.labels, table.requests)
    left_out = f"Kept rows that are left out: {'; '.join(stale)}.\n\n" if stale else ""
    return others + left_out + (attacks_table(variant_rows(complete)) if complete else "")


if __name__ == "__main__":
    main()
