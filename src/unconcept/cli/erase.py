"""`unconcept erase`: the main job."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import EXIT_FAILED, exit_codes, print_json, print_table, progress, quiet_libraries
from .evaluate import JudgeFlag, print_shares, print_trust

if TYPE_CHECKING:
    from ..jobs.erase import EraseOutcome


def erase(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="What to erase; one or several.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; it must not exist.  [default: out/CONCEPT]", show_default=False),
    ] = None,
    concepts_file: Annotated[Path | None, typer.Option("--concepts", help="File with one more concept a line.")] = None,
    model: options.ModelFlag = "moji",
    method: Annotated[
        str | None, typer.Option(help="Method; see `unconcept methods`.  [default: uce]", show_default=False)
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe by name, or a .toml file.")] = None,
    set_: options.AssignmentsFlag = None,
    regulariser: options.RegularisersFlag = None,
    anchor: options.AnchorsFlag = None,
    retain: options.RetainedFlag = None,
    retain_file: Annotated[Path | None, typer.Option(help="File with one retained text a line.")] = None,
    kind: options.KindFlag = None,
    judge: JudgeFlag = None,
    strength: options.StrengthFlag = 1.0,
    batch_size: options.BatchSizeFlag = 24,
    seed: options.SeedFlag = 0,
    limit: options.LimitFlag = None,
    device: options.DeviceFlag = "auto",
    dtype: options.DtypeFlag = "auto",
    mixed_precision: options.MixedPrecisionFlag = None,
    checkpointing: options.CheckpointingFlag = None,
    random_erasing: options.RandomErasingFlag = None,
    dom: options.DomFlag = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Draw and judge nothing: write edit.safetensors and run.json.")
    ] = False,
    overwrite: options.OverwriteFlag = False,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Erase concepts: edit, check, draw before and after, judge, report."""
    with exit_codes():
        quiet_libraries()
        from ..core.settings import parse_assignment
        from ..core.text_files import read_lines
        from ..jobs.erase import erase as run
        from ..jobs.resolve import plan_job

        wanted = [*(concepts or []), *read_lines(concepts_file)]
        out = out or Path("out") / (re.sub(r"\W+", "-", "-".join(wanted)).strip("-") or "recipe")
        kept = [*(retain or []), *read_lines(retain_file)]
        planned = plan_job(
            concepts=wanted,
            anchors=anchor,
            retain=kept if retain or retain_file else None,
            kind=kind,
            out=out,
            model=model,
            method=method,
            recipe=recipe,
            assignments=dict(parse_assignment(text) for text in set_ or []),
            training={
                "mixed_precision": mixed_precision,
                "checkpointing": checkpointing,
                "random_erasing": random_erasing,
                "dom": dom,
            },
            regularisers=dict(parse_assignment(text, "--regulariser") for text in regulariser or []),
            judge=judge,
            strength=strength,
            batch_size=batch_size,
            limit=limit,
            seed=seed,
            device=device,
            dtype=dtype,
            report=not no_report,
            overwrite=overwrite,
        )
        with progress(quiet) as tell:
            outcome = run(planned.job, tell)
        if outcome is None:
            return
        if as_json:
            print_json(outcome.report.data())
        elif not quiet:
            _print(outcome, planned.reasons)
            print(f"-> {out / ('run.json' if no_report else 'report.html')}")
        _check(outcome, out)


def _check(outcome: "EraseOutcome", out: Path) -> None:
    """Exit with a line for each check that the edit failed."""
    for failure in outcome.failures:
        typer.echo(f"unconcept: FAILED: {failure}; what was made is kept in {out}", err=True)
    if outcome.failures:
        raise typer.Exit(EXIT_FAILED)


def _print(outcome: "EraseOutcome", reasons: Mapping[str, str]) -> None:
    """Why each part of the request is as it is, then the rates, and what the edit does to the weights."""
    from ..evaluation.trials.report import group_rows as group_rows
    from ..evaluation.trials.report import judge_calibration, origin_of_finding

    report, rows = outcome.report, group_rows(outcome.report.findings[0])
    for name, reason in {**reasons, **outcome.chosen.reasons}.items():
        print(f"{name}: {reason}")
    if rows:
        cells = [
            (row.group, str(row.before), str(row.after), f"{row.nothing.value:.1%}", str(row.after.n)) for row in rows
        ]
        print_table(report.title, ("group", "before", "after", "nothing after", "n"), cells)
        print_trust(judge_calibration(report.findings))
    print_shares(report.data()["trials"])
    figures = origin_of_finding(report.findings[0]).report.items()
    print(f"exact figures: {', '.join(f'{name} {value:.3g}' for name, value in figures if ' ' not in name)}")
