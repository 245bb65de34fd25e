"""The results tables on `moji`: UCE on many report concepts, its rivals on fewer, and on concepts erased together:
`make results`.

What is finished is kept, so the same command goes on after being stopped. A table that is not asked for stays as it is
in the file.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import known_faults
from benchmarks.report_concepts import report_concepts, seen_concepts
from benchmarks.sections import write_sections
from benchmarks.whole import whole_or_exit
from unconcept.cli.console import exit_codes, progress, quiet_libraries

if TYPE_CHECKING:
    from unconcept.evaluation.trials.finding import Finding
    from unconcept.evaluation.trials.report import Report
    from unconcept.jobs.evaluate_job import EvaluationRun
    from unconcept.worlds.table import ConceptEntry

OUT = Path("out/results")
OBJECTS = 18  # of the report objects, spread evenly over the table
MAIN = "uce"
HEAD = """# Results on `moji`

Share of pictures that show what the prompt asks for, by {judge[name]} version {judge[version]} (weights {weights}, \
first guess); unedited and
edited model from the same noise, seeds from 1,000,000 on, {drawing[steps]} steps, guidance \
{drawing[guidance_scale]}; 95 % intervals.
Every concept is a `report` concept of the table {table}; settings were chosen on others. "nothing" is the share of \
the target's
prompts in which the judge then knows nothing. Detectable: the smallest true change that the paired test finds in 80 \
% of cases, corrected
for the number of groups, if all of it goes one way and the prompts of one concept change together; a test that can \
find none prints no p.
Made by `make results`.

"""
UCE = """One edit for each of {count} concepts ({names}), pooled; intervals resample concepts.

Goals: target <= 10 % (>= 85 % before) with a known object drawn instead in >= 80 %, held-out synonyms <= 25 % (>= 70 \
% before), far
objects and other styles lose at most 5 points, held-out near neighbours at most 15.

"""
RIVALS = """One edit a method for each of {count} concepts ({names}), pooled. The last two rows are UCE as its \
papers' scripts run it: the name
alone, read as nothing, nothing retained.

![Target gone against far objects kept](results.svg)

"""
TOGETHER = """One edit for all concepts of a request, about {n} prompts a group shared among them, one each at least; \
near neighbours that are erased
themselves are left out. Intervals resample the concepts that prompts are about; of a single concept they are Wilson's.

"""
TRAINED = """One edit a trained method for each of the drawn concepts and of the seen ones, which stand apart, from 28 \
prompts a group; intervals of
one concept are Wilson's, pooled ones resample the concepts. What each took, beside the budget of its paper:

{budgets}
"""
TABLES = {
    "uce": "UCE",
    "rivals": "Methods beside each other",
    "together": "Erased together",
    "trained": "Trained methods",
}
BUDGETS = {  # of a training: its setting, and the paper's recipe
    "esd": ("iterations", "esd-paper-object"),
    "concept-ablation": ("iterations", "concept-ablation-instance"),
    "kscu": ("iterations", "kscu-object"),
    "spm": ("iterations", "spm-concept"),
    "receler": ("iterations", "receler-concept"),
    "advunlearn": ("iterations", "advunlearn-nudity"),
    "few-shot": ("epochs", "few-shot-paper"),
    "slug": ("max_search_iterations", "slug-celebrity"),
    "sculpting-memory": ("num_epochs", "sculpting-memory-imagenette"),
    "mace": ("max_train_steps", "mace-automobile"),
}


def spread(split: str, count: int, limit: int | None = None) -> tuple[str, ...]:
    """`count` objects of a split spread over the table, and all styles and harmful objects of it; at most `limit` of
    them all.
    """
    from unconcept.worlds.table import concept_table

    part = [e for e in concept_table().entries if e.erasable and e.split == split]
    objects = [e for e in part if e.kind == "object"]
    count = min(len(objects), count)
    names = [objects[i * len(objects) // count].name for i in range(count)] + [
        e.name for e in part if e.kind != "object"
    ]
    return tuple(names[:: -(-len(names) // limit)] if limit else names)


def names_of_kind(entries: Sequence["ConceptEntry"], kind: str) -> list[str]:
    return [entry.name for entry in entries if entry.kind == kind]


def together() -> dict[str, tuple[str, ...]]:
    """What is erased by one edit, by the name of its section. The object and the style alone are the first drawn."""
    from unconcept.worlds.table import concept_table

    part = [e for e in concept_table().entries if e.erasable and e.split == "report"]
    every, styles, harmful = (names_of_kind(part, kind) for kind in ("object", "style", "harmful"))
    return {
        "1 object": report_concepts()[:1],
        "10 objects": objects(10),
        f"{len(every)} objects": tuple(every),
        "1 style": tuple(name for name in report_concepts() if name in styles)[:1],
        "4 styles": tuple(styles[:4]),
        "the harmful family": tuple(harmful),
    }


def objects(count: int) -> tuple[str, ...]:
    """So many report objects, spread evenly over the table."""
    from unconcept.worlds.table import concept_table

    names = [
        entry.name
        for entry in concept_table().entries
        if entry.erasable and entry.split == "report" and entry.kind == "object"
    ]
    return tuple(names[i * len(names) // count] for i in range(count))


def rivals(named: str | None) -> tuple:
    """Methods under their `moji` recipes, every one by default; and MACE's closed-form stage by itself."""
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    untrained = variant_of_method("mace").changed("mace, not trained", {"max_train_steps": 0})
    return (*map(variant_of_method, _chosen(named)), untrained)


def trained(named: str | None) -> tuple:
    """Trained methods under their `moji` recipes, every one by default; and ESD once more, on all that its recipe
    leaves as it is.
    """
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    arms = [variant_of_method(name) for name in _chosen(named) if name in BUDGETS]
    return (*arms, *(arm.changed("esd-u", {"train_method": "u"}) for arm in arms if arm.method == "esd"))


def _chosen(named: str | None) -> list[str]:
    from unconcept.methods import methods

    return (
        [methods[name].name for name in named.split(",")]
        if named
        else [name for name in methods if methods[name].does == "erase"]
    )


def scripts() -> tuple:
    """UCE as its papers' scripts run it."""
    from unconcept.evaluation.tasks.edit_task import Variant

    settings = {"uce 2025, null anchor": {}, "uce 2023, null anchor": {"tokens": "last+tail"}}
    return tuple(Variant(label, "uce", own, bare=True) for label, own in settings.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--tables", default=",".join(TABLES), help=f"separated by commas, {', '.join(TABLES)}; every one by default"
    )
    parser.add_argument("--methods", help="of all tables but the first, separated by commas; every one by default")
    parser.add_argument("--limit", type=int, help="concepts of the first table at most, spread over the kinds")
    parser.add_argument("--max-minutes", type=float, help="of each table")
    args = parser.parse_args()
    asked = args.tables.split(",")
    if unknown := set(asked) - TABLES.keys():
        parser.error(f"no table {min(unknown)!r}: allowed are {', '.join(TABLES)}")
    quiet_libraries()
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun

    many, fewer, requests, arms = (
        spread("report", OBJECTS, args.limit),
        report_concepts(),
        together(),
        rivals(args.methods),
    )
    told = {"max_minutes": args.max_minutes, "overwrite": True}
    runs = {
        "uce": EvaluationRun(many, OUT / "uce", variants=(variant_of_method(MAIN),), suite="results", **told),
        "rivals": EvaluationRun(fewer, OUT / "rivals", variants=(*arms, *scripts()), suite="results", **told),
        "together": EvaluationRun(
            requests["1 object"],
            OUT / "together",
            variants=arms,
            joint_requests=tuple(requests.values()),
            suite="together",
            **told,
        ),
        "trained": EvaluationRun(
            (*report_concepts(), *seen_concepts()),
            OUT / "trained",
            variants=trained(args.methods),
            suite="results",
            **told,
        ),
    }
    with exit_codes(), progress(quiet=False) as tell:
        reports = {name: evaluate(runs[name], tell) for name in asked}
    whole_or_exit(reports.values())
    measured = {name: section(name, report, runs[name], requests) for name, report in reports.items()}
    print(write_sections(args.docs / "results.md", head(reports[asked[0]].data()), TABLES, measured))
    if "rivals" in reports:
        shutil.copy(OUT / "rivals" / "results.svg", args.docs / "results.svg")


def head(data: dict) -> str:
    """What the tables were measured on."""
    begin = HEAD.format(
        judge=data["judge"], drawing=data["drawing"], weights=data["judge"]["hash"][:12], table=data["table_hash"][:12]
    )
    return begin + known_faults.RESULTS


def section(name: str, report: "Report", run: "EvaluationRun", requests: Mapping[str, tuple[str, ...]]) -> str:
    """A table and what it is of."""
    if name == "together":
        return TOGETHER.format(n=report.suite.sizes.direct) + by_request(report.findings, requests)
    if name == "trained":
        return TRAINED.format(budgets=budgets(report.findings)) + titled(headline_and_seen(report.findings))
    what = {"uce": UCE, "rivals": RIVALS}[name].format(count=len(run.concepts), names=", ".join(run.concepts))
    return what + (run.out / "results.md").read_text(encoding="utf-8")


def headline_and_seen(findings: Sequence["Finding"]) -> dict[str, list["Finding"]]:
    """The findings on the drawn concepts pooled, then of each, then those on seen concepts, which stand apart."""
    drawn, seen = report_concepts(), seen_concepts()
    pooled = [one for name in drawn for one in findings_of(findings, (name,))]
    each = {name: findings_of(findings, (name,)) for name in drawn}
    apart = {f"{name}, seen": findings_of(findings, (name,)) for name in seen}
    return {f"all {len(drawn)}": pooled, **each, **apart}


def by_request(findings: Sequence["Finding"], requests: Mapping[str, tuple[str, ...]]) -> str:
    """A table for each request."""
    return titled({name: findings_of(findings, concepts) for name, concepts in requests.items()})


def findings_of(findings: Sequence["Finding"], concepts: tuple[str, ...]) -> list["Finding"]:
    """Those of the edits of some concepts."""
    return [one for one in findings if one.answered_trial.trial.concepts == concepts]


def titled(findings: Mapping[str, Sequence["Finding"]]) -> str:
    from unconcept.evaluation.trials.variants import variant_rows
    from unconcept.report.markdown import results_table

    return "\n".join(f"### {name}\n\n{results_table(variant_rows(own))}" for name, own in findings.items() if own)


def budgets(findings: Sequence["Finding"]) -> str:
    """A row a method: what bounds its training here and in its paper, and the seconds of each training."""
    from unconcept.core.recipe import load_recipe
    from unconcept.evaluation.trials.variants import group_by_label
    from unconcept.methods import methods

    lines = ["| | bounded by | here | its paper | seconds, here |", "| --- | --- | --- | --- | --- |"]
    for label, own in group_by_label(findings).items():
        method = own[0].answered_trial.trial.edit.origin.method
        setting, paper = BUDGETS[method]
        usual = load_recipe(paper).settings.get(setting, getattr(methods[method].settings, setting, None))
        here = load_recipe(f"moji-{method}").settings.get(setting, usual)
        seconds = ", ".join(f"{one.answered_trial.trial.cost['seconds']:.0f}" for one in own)
        lines.append(f"| {label} | {setting} | {here} | {usual} | {seconds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
