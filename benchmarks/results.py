"""The results tables: every method on many report concepts, one edit each, and on several together: `make results`.

What is finished is kept, so the same command goes on after being stopped.
"""

import argparse
import shutil
from pathlib import Path

from unconcept.cli.console import FAILED, progress, quiet_libraries, speaking

OBJECTS = 18  # of the report objects, spread evenly over the table
GOALS = """Goals, of UCE under its moji recipe: target <= 10 % (>= 85 % before) with a known object drawn instead in >= 80 %, held-out synonyms
<= 25 % (>= 70 % before), far objects and other styles lose at most 5 points, held-out near neighbours at most 15."""
TOGETHER = """
## Erased together

One edit for all concepts of a request, about 96 prompts a group shared among them; near neighbours that are erased themselves are left
out. Intervals resample the concepts that prompts are about; of a single concept they are Wilson's.

"""


def spread(split: str, count: int, limit: int | None = None) -> tuple[str, ...]:
    """`count` objects of a split spread over the table, and all styles and harmful objects of it; at most `limit` of them all."""
    from unconcept.moji.table import table

    part = [e for e in table().entries if e.erasable and e.split == split]
    objects = [e for e in part if e.kind == "object"]
    count = min(len(objects), count)
    names = [objects[i * len(objects) // count].name for i in range(count)] + [e.name for e in part if e.kind != "object"]
    return tuple(names[:: -(-len(names) // limit)] if limit else names)


def arms(named: str | None = None) -> tuple:
    """The methods, every one by default, under their `moji` recipes, and UCE as its papers run it."""
    from unconcept.evaluation.bench import Arm, arm_of
    from unconcept.methods import methods

    papers = Arm("uce 2025, null anchor", "uce", {}, bare=True), Arm("uce 2023, null anchor", "uce", {"tokens": "last+tail"}, bare=True)
    chosen = [methods[name].name for name in named.split(",")] if named else [name for name in methods if methods[name].does == "erase"]
    return tuple(arm_of(name) for name in chosen) + papers


def together() -> dict[str, tuple[str, ...]]:
    """What is erased by one edit, by the name of its section. The object and the style alone are those of the demo."""
    from unconcept.moji.table import table

    part = [e for e in table().entries if e.erasable and e.split == "report"]
    objects, styles, harmful = ([e.name for e in part if e.kind == kind] for kind in ("object", "style", "harmful"))
    return {
        "1 object": ("dog face",),
        "10 objects": tuple(objects[i * len(objects) // 10] for i in range(10)),
        f"{len(objects)} objects": tuple(objects),
        "1 style": ("ink",),
        "4 styles": tuple(styles[:4]),
        "the harmful family": tuple(harmful),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--methods", help="separated by commas; every one by default")
    parser.add_argument("--limit", type=int, help="concepts at most, spread over the kinds")
    parser.add_argument("--max-minutes", type=float, help="of each of the two tables")
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.evaluate import Run, evaluate
    from unconcept.evaluation.markdown import results_table

    rivals, chosen, requests = arms(args.methods), spread("report", OBJECTS, args.limit), together()
    runs = (
        Run(chosen, Path("out/results"), arms=rivals, suite="results", max_minutes=args.max_minutes, overwrite=True),
        Run(
            requests["1 object"],
            Path("out/together"),
            arms=rivals,
            together=tuple(requests.values()),
            suite="together",
            max_minutes=args.max_minutes,
            overwrite=True,
        ),
    )
    with speaking(), progress(quiet=False) as tell:
        alone, joint = (evaluate(run, tell) for run in runs)
    sections = {name: [f for f in joint.findings if f.answered.trial.concepts == concepts] for name, concepts in requests.items()}
    tables = [f"### {name}\n\n{results_table(findings)}" for name, findings in sections.items() if findings]
    pooled = (runs[0].out / "results.md").read_text(encoding="utf-8")
    print(pooled, *tables, sep="\n")
    if not alone.status == joint.status == "ok":
        raise SystemExit(FAILED)
    _publish(args.docs, head(alone.data(), chosen) + pooled + TOGETHER + "\n".join(tables), runs[0].out / "results.svg")


def head(data: dict, chosen: tuple[str, ...]) -> str:
    """What the table was measured on."""
    judge, drawing = data["judge"], data["drawing"]
    return f"""# Results on `moji`

One edit for each of {len(chosen)} `report` concepts ({", ".join(chosen)}), pooled. Share of pictures that show what the prompt
asks for, by {judge["name"]} version {judge["version"]} (weights {judge["hash"][:12]}, first guess); unedited and edited model from the same noise,
seeds from 1,000,000 on, {drawing["steps"]} steps, guidance {drawing["guidance_scale"]}; 95 % intervals resample concepts. Table of concepts
{data["table_hash"][:12]}. "nothing" is the share of the target's prompts in which the judge then knows nothing. Made by `make results`.

{GOALS}

![Target gone against far objects kept](results.svg)

"""


def _publish(docs: Path, text: str, chart: Path) -> None:
    docs.mkdir(exist_ok=True)
    (docs / "results.md").write_text(text, encoding="utf-8")
    shutil.copy(chart, docs / "results.svg")


if __name__ == "__main__":
    main()
