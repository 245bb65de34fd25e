"""`unconcept erase`: the main job."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..jobs.command_options import EraseOptions
from .console import EXIT_FAILED, print_json, print_table, progress, say
from .evaluate import print_figures, print_trust
from .options import PrintOptions

if TYPE_CHECKING:
    from ..jobs.erase import EraseOutcome


def erase(options: EraseOptions, shown: PrintOptions) -> None:
    """Erase concepts: edit, check, draw before and after, judge, report."""
    with progress(shown.quiet) as tell:
        from ..jobs.erase import erase as job
        from ..jobs.resolve import plan_job

        planned = plan_job(options)
        outcome = job(planned.job, tell)
    if outcome is None:
        return
    out = planned.job.out
    if shown.as_json:
        print_json(outcome.report.data())
    elif not shown.quiet:
        _print(outcome, planned.reasons)
        say(f"-> {out / ('report.html' if options.report else 'run.json')}")
    _check(outcome, out)


def _check(outcome: "EraseOutcome", out: Path) -> None:
    """Print a line for each check that the edit failed, and exit with code 1 if there is one."""
    for failure in outcome.failures:
        say(f"unconcept: FAILED: {failure}; the output is kept in {out}", error=True)
    if outcome.failures:
        raise typer.Exit(EXIT_FAILED)


def _print(outcome: "EraseOutcome", reasons: Mapping[str, str]) -> None:
    """Print the reason for each part of the request, then the rates, then the exact figures of the edit."""
    from ..evaluation.trials.report import group_rows as group_rows
    from ..evaluation.trials.report import judge_calibration, origin_of_finding
    from ..prompts.sets import GROUP_NAMES
    from ..report.markdown import format_detectable

    report, rows = outcome.report, group_rows(outcome.report.findings[0])
    for name, reason in {**reasons, **(report.reasons or {})}.items():
        if name != "judge":  # Who judged stands with the rates.
            say(f"{name}: {reason}")
    if rows:
        cells = [
            (
                GROUP_NAMES[row.group],
                str(row.before),
                str(row.after),
                f"{row.nothing.value:.1%}",
                format_detectable(row.detectable),
                str(row.after.n),
            )
            for row in rows
        ]
        print_table(report.title, ("group", "before", "after", "nothing after", "detectable, points", "n"), cells)
        print_trust(judge_calibration(report.findings))
    if report.reasons and "judge" in report.reasons:
        say(report.reasons["judge"])
    print_figures(report.data()["trials"])
    figures = origin_of_finding(report.findings[0]).report.items()
    say(f"exact figures: {', '.join(f'{name} {value:.3g}' for name, value in figures if ' ' not in name)}")
