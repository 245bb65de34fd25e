"""`unconcept ledger status`, `drift`, `verify`, `audit`, `diff`: inspect a ledger."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ..jobs.ledger_options import AuditOptions, DiffOptions, DriftOptions, StatusOptions, VerifyOptions
from .console import EXIT_FAILED, print_json, print_table, progress
from .options import JsonOptions, PrintOptions

if TYPE_CHECKING:
    from ..ledger.drift import StateDrift
    from ..ledger.drift_history import HistoryStep

_HISTORY_COLUMNS = ("when", "what", "concepts", "in force", "|T|", "weights", "retained, mean", "retained, worst")
_AUDIT_COLUMNS = ("id", "concept", "of", "unedited", "edited", "fine-tuned", "folded again", "came back")
_AUDIT_COUNTS = ("pictures", "unedited", "edited", "tuned", "refolded", "came_back")


def status(options: StatusOptions, shown: JsonOptions) -> None:
    """Show which requests are in force, since when, and which contradict one another. Opens no model."""
    from ..jobs.ledger_views import status as job

    told = job(options)
    if options.html is not None:
        print(f"-> {options.html}")
    elif shown.as_json:
        print_json(told)
    else:
        _print_status(told)
    if told["torn"]:
        typer.echo(
            "unconcept: the last line is incomplete; no entry is lost: remove it with `unconcept ledger repair"
            f" {options.folder}`",
            err=True,
        )


def drift(options: DriftOptions, shown: PrintOptions) -> None:
    """Measure how far the state is from the base."""
    from ..jobs.ledger_views import drift as job

    with progress(shown.quiet) as tell:
        found = job(options, tell)
    if isinstance(found, list):
        _print_history(found, shown.as_json)
    elif shown.as_json:
        print_json(found.data())
    else:
        _print_drift(found)


def verify(options: VerifyOptions, shown: PrintOptions) -> None:
    """Hash all files again and rebuild the state; list every fault. Exits with code 1 if there is one."""
    from ..jobs.ledger_views import verify as job

    with progress(shown.quiet) as tell:
        found = job(options, tell)
    faults = [*found.faults]
    if found.torn:
        repair = f"unconcept ledger repair {options.folder}"
        faults.append(f"the last line is incomplete; no entry is lost: remove it with `{repair}`")
    if shown.as_json:
        print_json(vars(found))
    elif not faults:
        state = f", state {found.state}" if found.state else ""
        print(f"no faults: {found.entries} entries, {found.artifacts} artifacts{state}")
    for line in found.notes:
        typer.echo(f"note: {line}", err=True)
    for fault in faults:
        typer.echo(f"unconcept: FAILED: {fault}", err=True)
    if faults:
        raise typer.Exit(EXIT_FAILED)


def audit(options: AuditOptions, shown: PrintOptions) -> None:
    """Fine-tune the edited model a little on other pictures, count whether erased concepts come back, and fold the
    ledger again on the result.
    """
    from ..jobs.ledger_views import audit as job

    with progress(shown.quiet) as tell:
        found = job(options, tell)
    if shown.as_json:
        print_json(found)
        return
    rows = []
    for key, one in found.items():
        for concept, seen in one["concepts"].items():
            rows.append((key[:8], concept, *(str(seen[name]) for name in _AUDIT_COUNTS)))
    print_table("pictures that show the concept", _AUDIT_COLUMNS, rows)


def diff(options: DiffOptions, shown: JsonOptions) -> None:
    """Compare the requests in force and the policies of two ledgers."""
    from ..jobs.ledger_views import diff as job

    found = job(options)
    if shown.as_json:
        print_json(found)
        return
    print("the same state" if found["same"] else f"{found['both']} requests in both")
    for sign, side in (("-", "only_first"), ("+", "only_second")):
        for one in found[side]:
            print(f"{sign} {one['id'][:8]} {', '.join(one['concepts'])} ({one['method']})")
    for name, (mine, theirs) in found["apart"].items():
        print(f"{name}: {mine} | {theirs}")


def _print_history(steps: "Sequence[HistoryStep]", as_json: bool) -> None:
    if as_json:
        print_json([vars(step) for step in steps])
        return
    rows = []
    for step in steps:
        norm = "n/a" if step.norm is None else f"{step.norm:.4f}"
        shares = map(_share, (step.weights, step.mean_drift, step.worst_drift))
        rows.append((step.at[:19], step.op, ", ".join(step.concepts), str(step.in_force), norm, *shares))
    print_table("drift after every entry", _HISTORY_COLUMNS, rows)


def _print_drift(found: "StateDrift") -> None:
    changed = f"{found.total:.4%} of their norm over {len(found.layers)} tensors"
    print(f"weights: {changed if found.layers else 'none is changed, all edits in force run beside the model'}")
    worst = [(one.text, f"{one.share:.2%}", one.nearest, f"{one.cosine:.3f}") for one in found.retained[:12]]
    if worst:
        print(f"retained texts: the text maps' outputs moved by {_share(found.function)} of their norm")
        print_table("retained texts that moved most", ("text", "moved", "nearest target", "cosine"), worst)


def _print_status(told: Mapping[str, Any]) -> None:
    rows = [_status_row(request) for request in told["requests"]]
    base = told["base"]
    print_table(
        f"{told['active']} of {len(rows)} requests in force; rule {told['rule']}; base {base['model']}"
        f" ({base['family']}, {base['text_maps'][:12]})",
        ("id", "state", "concepts", "read as", "method", "added", "revoked", "by"),
        rows,
    )
    for one in told["conflicts"]:
        print(f"{one['conflict']}: {one['text']}: {one['policy']} ({', '.join(id_[:8] for id_ in one['requests'])})")


def _status_row(request: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        request["id"][:8],
        request["state"],
        ", ".join(request["concepts"]),
        ", ".join(map(repr, request["anchor"])),
        request["method"],
        request["added"][:19],
        (request["revoked"] or "")[:19],
        request["by"],
    )


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2%}"
