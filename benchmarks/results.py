"""The results table: every method on many report concepts, one edit each: `make results`.

What is finished is kept, so the same command goes on after being stopped. `--tuning` asks the tune concepts on given
words and other seeds instead, to choose settings by; nothing else may choose them.
"""

import argparse
import shutil
from pathlib import Path

from unconcept.cli.console import FAILED, progress, quiet_libraries, speaking

OBJECTS = 18  # of the report objects, spread evenly over the table
GOALS = """Goals, of UCE under its moji recipe: target <= 10 % (>= 85 % before) with a known object drawn instead in >= 80 %, held-out synonyms
<= 25 % (>= 70 % before), far objects and other styles lose at most 5 points, held-out near neighbours at most 15."""


def concepts(tuning: bool, limit: int | None) -> tuple[str, ...]:
    """Report (or tune) objects spread over the table, and all styles and harmful objects of that part."""
    from unconcept.moji.table import table

    part = [e for e in table().entries if e.erasable and e.split == ("tune" if tuning else "report")]
    objects = [e for e in part if e.kind == "object"]
    count = min(len(objects), 6 if tuning else OBJECTS)
    names = [objects[i * len(objects) // count].name for i in range(count)] + [e.name for e in part if e.kind != "object"]
    return tuple(names[:: -(-len(names) // limit)] if limit else names)


def arms(tuning: bool, named: str | None = None) -> tuple:
    """The methods, every one by default, under their `moji` recipes, and UCE as its papers run it; for tuning, candidates for UCE."""
    from unconcept.evaluation.bench import Arm, arm_of
    from unconcept.methods import methods

    if tuning:
        tried = (("last", 0.5, 1.0), ("last+tail", 0.5, 0.1), ("last+tail", 0.5, 1.0), ("last", 20.0, 1.0))
        return tuple(Arm(f"uce {t}, lamb {l}, preserve {p}", "uce", {"tokens": t, "lamb": l, "preserve_scale": p}) for t, l, p in tried)
    papers = Arm("uce 2025, null anchor", "uce", {}, bare=True), Arm("uce 2023, null anchor", "uce", {"tokens": "last+tail"}, bare=True)
    chosen = [methods[name].name for name in named.split(",")] if named else [name for name in methods if methods[name].does == "erase"]
    return tuple(arm_of(name) for name in chosen) + papers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--methods", help="separated by commas; every one by default")
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--limit", type=int, help="concepts at most, spread over the kinds")
    parser.add_argument("--max-minutes", type=float)
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.evaluate import Run, evaluate

    name = "tuning" if args.tuning else "results"
    chosen = concepts(args.tuning, args.limit)
    run = Run(chosen, Path("out") / name, arms=arms(args.tuning, args.methods), suite=name, max_minutes=args.max_minutes, overwrite=True)
    with speaking(), progress(quiet=False) as tell:
        report = evaluate(run, tell)
    print((run.out / "results.md").read_text(encoding="utf-8"))
    if report.status != "ok":
        raise SystemExit(FAILED)
    if not args.tuning:
        _publish(run.out, args.docs, report.data(), chosen)


def _publish(out: Path, docs: Path, data: dict, chosen: tuple[str, ...]) -> None:
    judge, drawing = data["judge"], data["drawing"]
    head = f"""# Results on `moji`

One edit for each of {len(chosen)} `report` concepts ({", ".join(chosen)}), pooled. Share of pictures that show what the prompt
asks for, by {judge["name"]} version {judge["version"]} (weights {judge["hash"][:12]}, first guess); unedited and edited model from the same noise,
seeds from 1,000,000 on, {drawing["steps"]} steps, guidance {drawing["guidance_scale"]}; 95 % intervals resample concepts. Table of concepts
{data["table_hash"][:12]}. "nothing" is the share of the target's prompts in which the judge then knows nothing. Made by `make results`.

{GOALS}

![Target gone against far objects kept](results.svg)

"""
    docs.mkdir(exist_ok=True)
    (docs / "results.md").write_text(head + (out / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copy(out / "results.svg", docs / "results.svg")


if __name__ == "__main__":
    main()
