"""`unconcept evaluate`, `attack` and `bench`: run suites and attacks on edits, and report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import typer

from ..jobs.command_options import AttackOptions, BenchOptions, EvaluateOptions
from .console import EXIT_FAILED, print_json, print_table, progress, say
from .options import PrintOptions
from .plan import duration_text

if TYPE_CHECKING:
    from ..core.progress import ProgressCallback
    from ..evaluation.judging.rates import JudgeCalibration
    from ..evaluation.trials.report import Report
    from ..jobs.evaluate_job import EvaluationRun, OpenRun
    from ..prompts.sets import PromptGroup

_LADDER_COLUMNS = ("rung", "cost", "success", "ceiling", "never saw it", "half of the prompts cost", "")
_MEASURE_MARK = "@"  # in the name of a measure of pictures, before that of its network
_RATE_COLUMNS = ("pre", "floor", "success", "ceiling", "nothing")
_ATTACK_COLUMNS = ("edit", "attack", "rung", "unattacked", "floor", "ASR", "ceiling", "nothing", "seconds", "n")


def evaluate(options: EvaluateOptions, shown: PrintOptions) -> None:
    """Evaluate edits with a suite, on the same prompts and noise as the unedited model."""
    _run(lambda jobs: jobs.plan_evaluation(options), shown)


def attack(options: AttackOptions, shown: PrintOptions) -> None:
    """Try to bring erased concepts back, and compare with the same attack on the unedited model."""
    _run(lambda jobs: jobs.plan_attack(options), shown)


def bench(options: BenchOptions, shown: PrintOptions) -> None:
    """Erase every concept with every method, one edit each, and compare the methods in one table."""
    _run(lambda jobs: jobs.plan_bench(options), shown)


def _run(make: "Callable[[ModuleType], EvaluationRun]", shown: PrintOptions) -> None:
    """Run the evaluation that `make` builds with the module of jobs, which is heavy to import."""
    with progress(shown.quiet) as tell:
        from ..jobs import evaluate as jobs

        run = make(jobs)
        report = jobs.evaluate(run, tell, partial(announce_run, tell=tell))
    finish(report, run.out, shown, _print)


def announce_run(opened: "OpenRun", tell: "ProgressCallback", erasures: int = 0) -> None:
    """Say what a long run will do, and about how long it takes; `erasures` are those of a search."""
    from ..jobs.plans.forecast import forecast

    found = forecast(opened, erasures)
    if found is None:
        return
    parts = [f"{found.pictures} pictures to draw"]
    parts += [f"{found.searched} prompts to attack"] if found.searched else []
    shared = ", shared by the workers of the cluster" if opened.run.ray else ""
    edits = f", besides {found.edits} edits to make" if found.edits else ""
    tell(f"about {duration_text(found.seconds)} on this device{shared}{edits}: {', '.join(parts)}", 1, 1)


def finish(report: "Report", out: Path, shown: PrintOptions, show: "Callable[[Report], None]") -> None:
    """Print the report, by `show` if not as JSON, and exit with code 1 if anything failed or is missing."""
    if shown.as_json:
        print_json(report.data())
    elif not shown.quiet:
        show(report)
        say(f"-> {out / 'report.html'}")
    for failure in report.failures:
        say(f"unconcept: FAILED: {failure}", error=True)
    if report.missing:
        say(
            f"unconcept: PARTIAL: {report.missing} planned results are missing; run the same command again to continue",
            error=True,
        )
    if report.status != "ok":
        raise typer.Exit(EXIT_FAILED)


def _print(report: "Report") -> None:
    from ..evaluation.trials.report import judge_calibration
    from ..prompts.sets import GROUP_NAMES

    trials = report.data()["trials"]
    asked: set[str] = set().union(*(trial["groups"] for trial in trials))
    groups = [group for group in GROUP_NAMES if group in asked]
    if groups:  # Without a judge nothing is counted.
        _print_groups(trials, groups)
    if groups and len({trial["label"] for trial in trials}) > 1:
        _print_methods(report)
    for line in detectable_lines(trials):
        say(line)
    print_trust(judge_calibration(report.findings))
    print_figures(trials)
    for reason in (report.reasons or {}).values():
        say(reason)
    attacked = [_attack_row(_named(trial, trials), row) for trial in trials for row in trial["attacks"]]
    if attacked:
        print_table("attacks", _ATTACK_COLUMNS, attacked)
    for trial in trials:
        for row in trial["attacks"]:
            if row["controls"]:
                say(f"{_named(trial, trials)}, {row['attack']}: {_beside(row)}")
        for name, reason in trial["out_of_reach"].items():
            say(f"{trial['label']}, {name}: n/a: {reason}")
    _print_ladders(report)


def _named(trial: dict[str, Any], trials: Sequence[dict[str, Any]]) -> str:
    """The label of a trial, with its concept if another has the same label."""
    is_shared = [other["label"] for other in trials].count(trial["label"]) > 1
    return f"{trial['label']}: {', '.join(trial['concepts'])}" if is_shared else trial["label"]


def _print_ladders(report: "Report") -> None:
    """Print each ladder, from free to dear, with what half of the prompts cost."""
    from ..report.ladder_svg import budget_text

    for finding in report.findings:
        if finding.ladder is None:
            continue
        rows = []
        for rung in finding.ladder.rungs:
            rates = [f"{rate.value:.0%}" if rate else "-" for rate in (rung.success, rung.ceiling, rung.control)]
            note = rung.reason or ("may teach, not recall" if rung.may_teach else "")
            rows.append((rung.name, rung.cost, *rates, budget_text(rung), note))
        title = f"{finding.label}: the ladder of {finding.ladder.concept}, {finding.ladder.prompts} prompts"
        print_table(title, _LADDER_COLUMNS, rows)


def _print_groups(trials: Sequence[dict[str, Any]], groups: "Sequence[PromptGroup]") -> None:
    """Print a row of shares for each trial."""
    from ..prompts.sets import GROUP_NAMES

    rows = []
    for trial in trials:
        cells = [_cell(trial["groups"].get(group)) for group in groups]
        rows.append((trial["label"], ", ".join(trial["concepts"]), *cells))
    print_table(
        'share of pictures that show what the prompt asks for, before -> after (pictures; "nothing" after)',
        ("edit", "concept", *(GROUP_NAMES[group] for group in groups)),
        rows,
    )


def _print_methods(report: "Report") -> None:
    """Print methods by groups, pooled over the concepts, the unedited model first."""
    from ..evaluation.trials.variants import variant_rows
    from ..prompts.sets import GROUP_NAMES
    from ..report.html import method_rates
    from ..report.markdown import format_rate

    lines = method_rates({one.label: one.groups for one in variant_rows(report.findings)})
    rows = [(label, *map(format_rate, rates.values())) for label, rates in lines]
    titles = [GROUP_NAMES[group] for group in lines[0][1]]
    print_table("methods by groups, over all concepts, with 95 % intervals", ("method", *titles), rows)


def detectable_lines(trials: Sequence[dict[str, Any]]) -> list[str]:
    """The smallest change that each group's test could have found, once for all trials of the same size."""
    from ..prompts.sets import GROUP_NAMES
    from ..report.markdown import format_detectable

    found: dict[str, None] = {}
    for trial in trials:
        named = [f"{GROUP_NAMES[name]} {format_detectable(row['detectable'])}" for name, row in trial["groups"].items()]
        found |= {f"detectable change, points (80 % of cases): {', '.join(named)}": None} if named else {}
    return list(found)


def _attack_row(label: str, row: dict[str, Any]) -> tuple[str, ...]:
    shares = map(_share(row), _RATE_COLUMNS)
    return (label, row["attack"], row["rung"], *shares, f"{row['seconds']:.0f}", str(row["success"]["n"]))


def _beside(row: dict[str, Any]) -> str:
    """The rates of an attack's controls, and the share of its successes that its floor has without a search."""
    parts = [f"{one['name']} {one['rate']['value']:.0%}" for one in row["controls"]]
    success = row["success"]["value"]
    parts += [f"its floor has {row['floor']['value'] / success:.0%} of its successes"] if success else []
    return "; ".join(parts)


def print_trust(found: "JudgeCalibration | None") -> None:
    """Print the judge's accuracy, below its rates."""
    if found:
        say(str(found))


def print_figures(trials: Sequence[dict[str, Any]]) -> None:
    """Print the protocols' figures: shares with their intervals, then scores. Image measures are in the files alone."""
    figures = [(trial["label"], figure) for trial in trials for figure in trial["figures"]]
    shares = [
        (label, f["name"], _within(f["before"], f["before_interval"]), _within(f["value"], f["interval"]), str(f["n"]))
        for label, f in figures
        if f["interval"]
    ]
    scores = [
        (label, f["name"], "" if f["before"] is None else f"{f['before']:.3f}", f"{f['value']:.3f}", str(f["n"]))
        for label, f in figures
        if not f["interval"] and _MEASURE_MARK not in f["name"]
    ]
    for title, kind, rows in (("shares, with 95 % intervals", "share", shares), ("scores", "score", scores)):
        if rows:
            print_table(title, ("edit", kind, "before", "after", "n"), rows)


def _within(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None or interval is None:
        return "" if share is None else f"{share:.1%}"
    return f"{share:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def _share(row: dict[str, Any]) -> Callable[[str], str]:
    return lambda name: f"{row[name]['value']:.0%}" if row[name] else "n/a"


def _cell(group: dict[str, Any] | None) -> str:
    return (
        "n/a"
        if group is None
        else (
            f"{group['before']['value']:.0%} -> {group['after']['value']:.0%} ({group['after']['n']};"
            f" {group['nothing']['value']:.0%})"
        )
    )
