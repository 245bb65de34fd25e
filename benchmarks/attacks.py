"""The attacks tables: every attack on UCE's edits of an object, a style and a harmful object, and with fewer prompts on every method's: `make attacks`.

Finished attacks are kept in the store, ceilings are computed once; `--full` takes more concepts.
"""

import argparse
from pathlib import Path

from benchmarks.results import rivals
from benchmarks.whole import whole_or_exit
from unconcept.cli.console import progress, quiet_libraries, speaking

OUT = Path("out/attacks")
CONCEPTS = ("dog face", "ink", "kitchen knife")
MORE = ("pizza", "rocket", "crown", "flat", "bomb", "dagger")
FEWER = 2  # prompts a concept, of the table of rivals
MAIN = "uce"
HEAD = """# Attacks on `moji`

Every attack on one edit for each of {count} `report` concepts ({names}), pooled. ASR: share of prompts that show the concept unattacked
or attacked, by {judge[name]} version {judge[version]}, exact 95 % intervals. Floor: the attack's first input, before any search. Ceiling: the
same attack on the unedited model. Rungs go from what anyone can type to what needs the weights. Seconds are of search alone, one
thread. Made by `make attacks`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--methods", help="of the second table, separated by commas; every one by default")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--max-minutes", type=float, help="of each table")
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.bench import arm_of
    from unconcept.evaluation.evaluate import Run, evaluate

    chosen = (*CONCEPTS, *MORE) if args.full else CONCEPTS
    told = {"suite": "attack", "max_minutes": args.max_minutes, "overwrite": True}
    runs = Run(chosen, OUT / MAIN, arms=(arm_of(MAIN),), **told), Run(chosen, OUT / "rivals", arms=rivals(args.methods), limit=FEWER, **told)
    with speaking(), progress(quiet=False) as tell:
        reports = [evaluate(run, tell) for run in runs]
    whole_or_exit(reports)
    text = HEAD.format(count=len(chosen), names=", ".join(chosen), judge=reports[0].data()["judge"])
    for title, run in zip(("UCE", "Methods beside each other"), runs, strict=True):
        text += f"## {title}\n\n{(run.out / 'attacks.md').read_text(encoding='utf-8')}\n"
    print(text)
    args.docs.mkdir(exist_ok=True)
    (args.docs / "attacks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
