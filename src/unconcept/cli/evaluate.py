"""`unconcept evaluate`, `attack` and `bench`: ask edits the questions of a suite, attack them, report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import EXIT_FAILED, exit_codes, print_json, print_table, progress, quiet_libraries

if TYPE_CHECKING:
    from ..evaluation.judging.rates import JudgeCalibration
    from ..evaluation.trials.report import Report
    from ..jobs.evaluate import EvaluationRun

_RATE_COLUMNS = ("pre", "floor", "success", "ceiling", "nothing")
ConceptsArgument = Annotated[
    list[str] | None, typer.Argument(help="What the edits were to erase; one or several.", show_default=False)
]
ConceptsFile = Annotated[Path | None, typer.Option("--concepts", help="File with one more concept a line.")]
EditsFlag = Annotated[list[Path], typer.Option("--edit", help="Edit file to examine; repeatable.")]
SuiteFlag = Annotated[str, typer.Option(help="Suite; see `unconcept suites`.")]
PromptsFlag = Annotated[
    Path | None, typer.Option(help="Prompt file (CSV, JSON or one a line) in the suite's place.", show_default=False)
]
JudgeFlag = Annotated[
    str | None, typer.Option("--judge", help="clip-score=FOLDER or nudenet; moji has its own.", show_default=False)
]
SpecFlag = Annotated[
    str | None,
    typer.Option("--spec", help="A paper's steps, guidance and sampler; see `unconcept specs`.", show_default=False),
]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0, help="Begin nothing more after this; the same command goes on.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that draw; as many as pay by default.", show_default=False)
]


def evaluate(
    edit: EditsFlag,
    out: options.OutFlag,
    concepts: ConceptsArgument = None,
    concepts_file: ConceptsFile = None,
    model: options.ModelFlag = "moji",
    suite: SuiteFlag = "quick",
    prompts: PromptsFlag = None,
    judge: JudgeFlag = None,
    spec: SpecFlag = None,
    strength: options.StrengthFlag = 1.0,
    limit: options.LimitFlag = None,
    max_minutes: MaxMinutes = None,
    workers: Workers = None,
    batch_size: options.BatchSizeFlag = 24,
    seed: options.SeedFlag = 0,
    device: options.DeviceFlag = "auto",
    dtype: options.DtypeFlag = "auto",
    overwrite: options.OverwriteFlag = False,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Ask edits and the unedited model the questions of a suite, on the same noise."""
    asked = {
        "suite": suite,
        "prompts": prompts,
        "judge": judge,
        "edits": tuple(edit),
        "workers": workers,
        "max_minutes": max_minutes,
    }
    drawn = {
        "model": model,
        "spec": spec,
        "strength": strength,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "limit": limit,
    }
    _evaluate(concepts, concepts_file, as_json, quiet, {**asked, **drawn, "out": out, "overwrite": overwrite})


def attack(
    name: Annotated[str, typer.Argument(help="Attack; see `unconcept attacks`. all is every one.")],
    edit: EditsFlag,
    out: options.OutFlag,
    concepts: ConceptsArgument = None,
    concepts_file: ConceptsFile = None,
    model: options.ModelFlag = "moji",
    prompts: PromptsFlag = None,
    judge: JudgeFlag = None,
    spec: SpecFlag = None,
    strength: options.StrengthFlag = 1.0,
    limit: options.LimitFlag = None,
    max_minutes: MaxMinutes = None,
    workers: Workers = None,
    batch_size: options.BatchSizeFlag = 24,
    seed: options.SeedFlag = 0,
    device: options.DeviceFlag = "auto",
    dtype: options.DtypeFlag = "auto",
    overwrite: options.OverwriteFlag = False,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Try to bring concepts back, beside the same attack on the unedited model and with no budget."""
    names = ("*",) if name == "all" else (name,)
    asked = {
        "suite": "attack",
        "attacks": names,
        "prompts": prompts,
        "judge": judge,
        "edits": tuple(edit),
        "workers": workers,
        "max_minutes": max_minutes,
    }
    drawn = {
        "model": model,
        "spec": spec,
        "strength": strength,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "limit": limit,
    }
    _evaluate(concepts, concepts_file, as_json, quiet, {**asked, **drawn, "out": out, "overwrite": overwrite})


def bench(
    out: options.OutFlag,
    concepts: ConceptsArgument = None,
    concepts_file: ConceptsFile = None,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; all is every one.")] = "all",
    model: options.ModelFlag = "moji",
    suite: SuiteFlag = "quick",
    prompts: PromptsFlag = None,
    judge: JudgeFlag = None,
    spec: SpecFlag = None,
    limit: options.LimitFlag = None,
    max_minutes: MaxMinutes = None,
    workers: Workers = None,
    batch_size: options.BatchSizeFlag = 24,
    seed: options.SeedFlag = 0,
    device: options.DeviceFlag = "auto",
    dtype: options.DtypeFlag = "auto",
    overwrite: options.OverwriteFlag = False,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Erase every concept with every method, one edit each, and compare them in one table."""
    asked = {
        "suite": suite,
        "prompts": prompts,
        "judge": judge,
        "methods": methods,
        "workers": workers,
        "max_minutes": max_minutes,
    }
    drawn = {
        "model": model,
        "spec": spec,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "limit": limit,
    }
    _evaluate(concepts, concepts_file, as_json, quiet, {**asked, **drawn, "out": out, "overwrite": overwrite})


def _evaluate(
    concepts: Sequence[str] | None, concepts_file: Path | None, as_json: bool, quiet: bool, told: dict[str, Any]
) -> None:
    """Do it, print it, and exit with 1 if anything failed or is missing."""
    with exit_codes():
        quiet_libraries()
        from ..core.text_files import read_lines
        from ..evaluation.tasks.edit_task import variant_of_method
        from ..jobs.evaluate import EvaluationRun
        from ..jobs.evaluate import evaluate as work
        from ..methods import methods as known

        chosen = told.pop("methods", None)
        if chosen is not None:
            names = (
                [name for name in known if known[name].does == "erase"]
                if chosen == "all"
                else [known[name.strip()].name for name in chosen.split(",")]
            )
            told["variants"] = tuple(variant_of_method(name, told["model"]) for name in names)
        run = EvaluationRun(concepts=(*(concepts or []), *read_lines(concepts_file)), **told)
        with progress(quiet) as tell:
            report = work(run, tell)
        _tell(run, report, as_json, quiet)


def _tell(run: "EvaluationRun", report: "Report", as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(report.data())
    elif not quiet:
        _print(report)
        print(f"-> {run.out / 'report.html'}")
    for failure in report.failures:
        typer.echo(f"unconcept: FAILED: {failure}", err=True)
    if report.missing:
        typer.echo(
            f"unconcept: PARTIAL: {report.missing} planned results are missing; the same command goes on from here",
            err=True,
        )
    if report.status != "ok":
        raise typer.Exit(EXIT_FAILED)


def _print(report: "Report") -> None:
    from ..evaluation.trials.report import judge_calibration

    trials = report.data()["trials"]
    groups = list(dict.fromkeys(group for trial in trials for group in trial["groups"]))
    rows = [
        (trial["label"], ", ".join(trial["concepts"]), *(_cell(trial["groups"].get(group)) for group in groups))
        for trial in trials
    ]
    print_table(
        "share of pictures that show what the prompt asks, before -> after (pictures; nothing known after)",
        ("edit", "concept", *groups),
        rows,
    )
    print_trust(judge_calibration(report.findings))
    print_shares(trials)
    for reason in (report.reasons or {}).values():
        print(reason)
    attacked = [(trial["label"], row) for trial in trials for row in trial["attacks"]]
    if attacked:
        cells = [
            (
                label,
                row["attack"],
                row["rung"],
                *map(_share(row), _RATE_COLUMNS),
                f"{row['seconds']:.0f}",
                str(row["success"]["n"]),
            )
            for label, row in attacked
        ]
        print_table(
            "attacks",
            ("edit", "attack", "rung", "unattacked", "floor", "ASR", "ceiling", "nothing", "seconds", "n"),
            cells,
        )


def print_trust(found: "JudgeCalibration | None") -> None:
    """How far the judge can be trusted, below the rates it gave."""
    if found:
        print(found)


def print_shares(trials: Sequence[dict[str, Any]]) -> None:
    """The protocols' figures that are shares with an interval."""
    figures = [(trial["label"], figure) for trial in trials for figure in trial["figures"] if figure["interval"]]
    rows = [
        (label, f["name"], _within(f["before"], f["before_interval"]), _within(f["value"], f["interval"]), str(f["n"]))
        for label, f in figures
    ]
    if rows:
        print_table("shares, with 95 % intervals", ("edit", "share", "before", "after", "n"), rows)


def _within(share: float, interval: Sequence[float]) -> str:
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
