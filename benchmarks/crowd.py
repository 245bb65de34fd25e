"""Why closed forms keep less the more they erase: objects by number, and SPEED with other settings and retain sets:
`make crowd`.

What is finished is kept, so the same command goes on after being stopped.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report_concepts import objects
from benchmarks.whole import whole_or_exit
from unconcept.cli.console import exit_codes, progress, quiet_libraries

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant
    from unconcept.evaluation.trials.finding import Finding
    from unconcept.evaluation.trials.report import Report

OUT = Path("out/crowd")
COUNTS = (10, 17, 33, 50, 99)  # 17 objects are the share of moji's width that 100 names are of SD 1.4's
SETTLED = (17, 99)  # objects, of the table of settings
FEWER = (10, 17, 99)  # at which `TRAINED` are asked
CAPTIONS = 150  # retained beside the table's texts: with all of them nothing is left to edit in
METHODS = ("uce", "rece", "speed")
TRAINED = ("mace",)
ASKED = {"direct": "target", "far": "far", "style": "other styles"}
HEAD = """# Many concepts in one edit

An edit of W' = W (I + T) has one map T for all texts, as wide as the text's states, so what it erases leaves fewer \
directions to what it
keeps. `moji`'s states have {width} dimensions and each object is three texts, so {most} objects take {full:.0%} of \
them; 100 names take
{usual:.0%} of SD 1.4's 768, as 17 objects take of `moji`'s. Share of pictures that show what the prompt asks for, by \
{judge[name]} version
{judge[version]}; `report` objects, prompts shared among them as in docs/results.md ("Erased together"), seeds from \
1,000,000 on, 95 %
intervals that resample the concepts that prompts are about. Detectable: the smallest true change of target, far \
objects and styles
that a paired test finds in 80 % of cases, if a concept's prompts change together. Made by `make crowd`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--max-minutes", type=float, help="of each table")
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun

    requests = {count: objects(count) for count in COUNTS}
    told = {"suite": "together", "max_minutes": args.max_minutes, "overwrite": True}
    by_count = EvaluationRun(
        requests[10],
        OUT / "counts",
        variants=tuple(map(variant_of_method, METHODS)),
        joint_requests=tuple(requests.values()),
        **told,
    )
    by_training = EvaluationRun(
        requests[10],
        OUT / "trained",
        variants=tuple(map(variant_of_method, TRAINED)),
        joint_requests=tuple(requests[count] for count in FEWER),
        **told,
    )
    by_setting = EvaluationRun(
        requests[10],
        OUT / "settings",
        variants=settings(),
        joint_requests=tuple(requests[count] for count in SETTLED),
        **told,
    )
    with exit_codes(), progress(quiet=False) as tell:
        reports = [evaluate(run, tell) for run in (by_count, by_training, by_setting)]
    whole_or_exit(reports)
    text = page(reports, requests)
    args.docs.mkdir(exist_ok=True)
    (args.docs / "crowd.md").write_text(text, encoding="utf-8")
    print(text)


def page(reports: Sequence["Report"], requests: Mapping[int, tuple[str, ...]]) -> str:
    """The tables by count, of closed forms and trained methods, and that of SPEED's settings."""
    from unconcept.evaluation.tasks.edited_model import EditedModel

    width = EditedModel("moji").base().embed([""]).shape[1]
    closed, trained, second = (report.findings for report in reports)
    text = HEAD.format(
        judge=reports[0].data()["judge"], width=width, most=COUNTS[-1], full=3 * COUNTS[-1] / width, usual=100 / 768
    )
    text += counted([*closed, *trained], requests)
    for count in SETTLED:
        own = [one for one in second if one.concepts == requests[count]]
        text += f"\n## SPEED at {count} objects\n\n" + table(["setting", "texts retained"], own, _setting)
    return text


def settings() -> tuple["Variant", ...]:
    """SPEED's recipe, and one change each."""
    from unconcept.evaluation.tasks.edit_task import Variant, variant_of_method
    from unconcept.prompts.captions import load_captions

    own, everyday = variant_of_method("speed"), tuple(load_captions("everyday")[:CAPTIONS])
    changes: dict[str, tuple[dict, tuple[str, ...]]] = {
        "threshold 0.01": ({"threshold": 0.01}, ()),
        "threshold 10": ({"threshold": 10.0}, ()),
        "without the filter": ({"disable_filter": True}, ()),
        "without filter and copies": ({"aug_num": 0}, ()),
        "captions retained too": ({}, everyday),
        "captions, without the filter": ({"disable_filter": True}, everyday),
    }
    return (
        own,
        *(
            Variant(label, "speed", {**own.settings, **change}, retain=more)
            for label, (change, more) in changes.items()
        ),
    )


def counted(findings: Sequence["Finding"], requests: Mapping[int, tuple[str, ...]]) -> str:
    """A table for each method."""
    from unconcept.evaluation.trials.variants import group_by_label

    sizes = {concepts: str(count) for count, concepts in requests.items()}
    tables = {
        label: table(["objects", "texts"], group, lambda one: [sizes[one.concepts], _texts(one)])
        for label, group in group_by_label(findings).items()
    }
    return "\n".join(f"## {label}\n\n{text}" for label, text in tables.items())


def table(head: list[str], findings: Sequence["Finding"], names: Callable[["Finding"], list[str]]) -> str:
    """A row a finding: its names, then the rate of each group."""
    from unconcept.evaluation.trials.variants import pooled_group_rates
    from unconcept.report.markdown import format_detectable, format_rate, markdown_table

    lines = [[*head, *ASKED.values(), "detectable, points", "drift", "projector's rank"]]
    lines.append(["---"] * len(lines[0]))
    for one in findings:
        rows = {row.group: row for row in pooled_group_rates([one])}
        told = one.answered_trial.trial.edit.origin.report
        lines.append(
            [
                *names(one),
                *(format_rate(rows[group].after) for group in ASKED),
                ", ".join(format_detectable(rows[group].detectable) for group in ASKED),
                f"{told['drift']:.2f}",
                f"{told['projector_rank']:.0f}" if "projector_rank" in told else "",
            ]
        )
    return markdown_table(lines)


def _setting(one: "Finding") -> list[str]:
    return [one.label, str(len(one.answered_trial.trial.edit.origin.retain))]


def _texts(one: "Finding") -> str:
    return str(len(one.answered_trial.trial.edit.origin.targets))


if __name__ == "__main__":
    main()
