"""The attacks tables: every attack on UCE's edits of the drawn report concepts, with fewer prompts on every method's,
and apart from them on UCE's edits of the seen concepts: `make attacks`.

Finished attacks are kept in the store, ceilings are computed once; `--full` takes more concepts.
"""

import argparse
from pathlib import Path

from benchmarks import known_faults
from benchmarks.report_concepts import report_concepts, seen_concepts
from benchmarks.sections import write_sections
from benchmarks.variants import rivals
from benchmarks.whole import whole_or_exit
from unconcept.cli.console import exit_codes, progress, quiet_libraries

OUT = Path("out/attacks")
MORE = ("pizza", "rocket", "crown", "flat", "bomb", "dagger")
FEWER = 2  # prompts a concept, of the table of rivals
MAIN = "uce"
TABLES = {"uce": "UCE", "rivals": "Methods beside each other", "seen": "UCE on concepts that were seen"}
HEAD = """# Attacks on `moji`

Every attack on one edit for each of {count} `report` concepts ({names}), pooled. ASR: share of prompts that show the \
concept unattacked
or attacked, by {judge[name]} version {judge[version]}, exact 95 % intervals. Floor: the attack's first input, before \
any search. Ceiling: the
same attack on the unedited model. Rungs go from what anyone can type to what needs the weights. Seconds are of \
search alone, one
thread. In the second table a row is a method, a cell ASR (floor, share of prompts in which the judge knows nothing). \
Made by
`make attacks`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--tables",
        default=",".join(TABLES),
        help=f"separated by commas, {', '.join(TABLES)}; the others stay as they are",
    )
    parser.add_argument("--methods", help="of the second table, separated by commas; every one by default")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--max-minutes", type=float, help="of each table")
    args = parser.parse_args()
    asked = args.tables.split(",")
    if unknown := set(asked) - TABLES.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(TABLES)}")
    quiet_libraries()
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun

    chosen = tuple(dict.fromkeys((*report_concepts(), *MORE))) if args.full else report_concepts()
    told = {"suite": "attack", "max_minutes": args.max_minutes, "overwrite": True}
    runs = {
        "uce": EvaluationRun(chosen, OUT / "uce", variants=(variant_of_method(MAIN),), **told),
        "seen": EvaluationRun(seen_concepts(), OUT / "seen", variants=(variant_of_method(MAIN),), **told),
        "rivals": EvaluationRun(chosen, OUT / "rivals", variants=rivals(args.methods), limit=FEWER, **told),
    }
    with exit_codes(), progress(quiet=False) as tell:
        reports = {name: evaluate(runs[name], tell) for name in asked}
    whole_or_exit(reports.values())
    begin = HEAD.format(count=len(chosen), names=", ".join(chosen), judge=reports[asked[0]].data()["judge"])
    begin += known_faults.ATTACKS
    measured = {name: (runs[name].out / "attacks.md").read_text(encoding="utf-8") for name in asked}
    print(write_sections(args.docs / "attacks.md", begin, TABLES, measured))


if __name__ == "__main__":
    main()
