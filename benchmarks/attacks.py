"""The attacks table: every attack on every method's edits of an object, a style and a harmful object: `make attacks`.

Finished attacks are kept in the store, ceilings are computed once; `--full` takes more concepts.
"""

import argparse
from pathlib import Path

from benchmarks.whole import whole_or_exit
from unconcept.cli.console import progress, quiet_libraries, speaking

CONCEPTS = ("dog face", "ink", "kitchen knife")
MORE = ("pizza", "rocket", "crown", "flat", "bomb", "dagger")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--methods", help="separated by commas; every one by default")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--max-minutes", type=float)
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.bench import arm_of
    from unconcept.evaluation.evaluate import Run, evaluate
    from unconcept.methods import methods

    chosen = (*CONCEPTS, *MORE) if args.full else CONCEPTS
    erasers = [name for name in methods if methods[name].does == "erase"]
    arms = tuple(arm_of(methods[name].name) for name in (args.methods.split(",") if args.methods else erasers))
    run = Run(chosen, Path("out/attacks"), arms=arms, suite="attack", max_minutes=args.max_minutes, overwrite=True)
    with speaking(), progress(quiet=False) as tell:
        report = evaluate(run, tell)
    whole_or_exit([report])
    table = (run.out / "attacks.md").read_text(encoding="utf-8")
    print(table)
    data = report.data()
    n = data["trials"][0]["attacks"][0]["success"]["n"]
    text = f"""# Attacks on `moji`

Every attack on one edit for each of {len(chosen)} `report` concepts ({", ".join(chosen)}), {n} prompts each, pooled. ASR: share of prompts that
show the concept unattacked or attacked, by {data["judge"]["name"]} version {data["judge"]["version"]}, exact 95 % intervals. Floor: the attack's first
input, before any search. Ceiling: the same attack on the unedited model. Rungs go from what anyone can type to what needs
the weights. Seconds are of search alone, one thread. Made by `make attacks`.

"""
    args.docs.mkdir(exist_ok=True)
    (args.docs / "attacks.md").write_text(text + table, encoding="utf-8")


if __name__ == "__main__":
    main()
