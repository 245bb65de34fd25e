"""`unconcept recheck`: does an edit still hold on fine-tunes and merges of its base?"""

import typer

from ..jobs.command_options import RecheckOptions
from .console import EXIT_FAILED, print_json, print_table, progress, say
from .options import PrintOptions

_COLUMNS = ("model", "concept", "as it is", "with the edit", "own base", "drift", "verdict")
_PICTURES = ("shown as it is", "shown with it")


def recheck(options: RecheckOptions, shown: PrintOptions) -> None:
    """Measure an edit on derivatives of its base. Exits with code 1 unless it holds on every one of them."""
    from ..jobs.derivatives.recheck import recheck as job

    with progress(shown.quiet) as tell:
        found = job(options, tell)
    if shown.as_json:
        print_json(found.data())
    else:
        rows = []
        for check in found.checks:
            numbers = (check.as_it_is, check.residual, check.own_residual, check.drift)
            row = [check.model, check.concept, *map(_number, numbers), check.verdict]
            rows.append([*row, _number(check.shown_before), _number(check.shown)] if options.pictures else row)
        columns = (*_COLUMNS, *_PICTURES) if options.pictures else _COLUMNS
        print_table(f"{options.edit} on its base's derivatives", columns, rows)
        for model, reason in found.failed.items():
            say(f"not checked: {model}: {reason}")
        for note in found.notes:
            say(note)
    if not found.holds:
        raise typer.Exit(EXIT_FAILED)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
