"""`unconcept ledger status`, `drift`, `verify`, `audit`, `diff`: inspect a ledger."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ..jobs.ledger_options import AuditOptions, DiffOptions, DriftOptions, StatusOptions, VerifyOptions
from .console import EXIT_FAILED, print_json, print_table, progress, say
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
        say(f"-> {options.html}")
    elif shown.as_json:
        print_json(told)
    else:
        _print_status(told)
    if told["torn"]:
        say("unconcept: the last line is incomplete; no entry is lost: run `unconcept ledger repair`", error=True)


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
        faults.append("the last line is incomplete; no entry is lost: run `unconcept ledger repair`")
    if shown.as_json:
        print_json(vars(found))
    elif not faults:
        state = f", state {found.state}" if found.state else ""
        say(f"no faults: {found.entries} entries, {found.artifacts} artifacts{state}")
    for entry in found.forgotten:
        if not shown.as_json:
            say(f"entry {entry} is forgotten: its text was destroyed")
    for line in found.notes:
        say(f"note: {line}", error=True)
    for fault in faults:
        say(f"unconcept: FAILED: {fault}", error=True)
    if faults:
        raise typer.Exit(EXIT_FAILED)


def audit(options: AuditOptions, shown: PrintOptions) -> None:
    """Fine-tune the edited model a little on other pictures, count whether erased concepts come back, and fold the
    ledger again on the result.
    """
    from ..jobs.ledger_views import audit as job

    with progress(shown.quiet) as tell:
        outcome = job(options, tell)
    for name in outcome.never_drawn:
        say(f"unconcept: not audited, because it is never drawn: {name}", error=True)
    if shown.as_json:
        print_json(dict(outcome.found))
        return
    rows = []
    for key, one in outcome.found.items():
        for concept, seen in one["concepts"].items():
            rows.append((key[:8], concept, *(str(seen[name]) for name in _AUDIT_COUNTS)))
    print_table("pictures that show the concept", _AUDIT_COLUMNS, rows)


def diff(options: DiffOptions, shown: JsonOptions) -> None:
    """Compare the requests in force and the policies of two ledgers, or the edits of two releases."""
    from ..jobs.ledger_views import diff as job

    found = job(options)
    if shown.as_json:
        print_json(found)
        return
    if "difference" in found:
        _print_release_difference(found)
        return
    say("the same state" if found["same"] else f"{found['both']} requests in both")
    for sign, side in (("-", "only_first"), ("+", "only_second")):
        for one in found[side]:
            say(f"{sign} {one['id'][:8]} {', '.join(one['concepts'])} ({one['method']})")
    for name, (mine, theirs) in found["apart"].items():
        say(f"{name}: {mine} | {theirs}")


def _print_release_difference(found: Mapping[str, Any]) -> None:
    say("the same edit" if found["same"] else f"{found['both']} requests in both")
    for sign, side in (("-", "only_first"), ("+", "only_second")):
        for id_ in found[side]:
            say(f"{sign} {id_[:8]}")
    if not found["same"]:
        rank = "" if found["directions"] is None else f", in {found['directions']} directions"
        say(f"the edits differ by {_share(found['difference'])} of the first one's norm{rank}")


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
    say(f"weights: {changed if found.layers else 'none is changed, all edits in force run beside the model'}")
    worst = [(one.text, f"{one.share:.2%}", one.nearest, f"{one.cosine:.3f}") for one in found.retained[:12]]
    if worst:
        say(f"retained texts: the text maps' outputs moved by {_share(found.function)} of their norm")
        print_table("retained texts that moved most", ("text", "moved", "nearest target", "cosine"), worst)


def _print_status(told: Mapping[str, Any]) -> None:
    rows = [_status_row(request) for request in told["requests"]]
    base = told["base"]
    print_table(
        f"{told['active']} of {len(rows)} requests in force; rule {told['rule']}; base {base['model']}"
        f" ({base['family']}, {base['text_maps'][:12]})",
        ("id", "state", "concepts", "read as", "method", "added", "revoked", "asked for by"),
        rows,
    )
    print_table("asks", ("entry", "id", "by", "why", "asked", "withdrawn", "recorded by"), _ask_rows(told["requests"]))
    if told["forgotten"]:
        say(f"forgotten: entries {', '.join(map(str, told['forgotten']))}")
    for one in told["conflicts"]:
        say(f"{one['conflict']}: {one['text']}: {one['policy']} ({', '.join(id_[:8] for id_ in one['requests'])})")
    print_head(told["entries"], told["head"])


def print_head(entries: int, hash_: str) -> None:
    """Print the line to write down elsewhere: `verify --head` tells by it whether the ledger was rolled back."""
    say(f"head {entries} {hash_}")


def _ask_rows(requests: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The asks of all requests, in the order of their entries."""
    rows = []
    for request in requests:
        for ask in request["asks"]:
            gone = ask["withdrawn"] or {"at": "", "recorded_by": ""}
            clerks = dict.fromkeys(name for name in (ask["recorded_by"], gone["recorded_by"]) if name)
            who = (request["id"][:8], ask["by"], ask["because"], ask["at"][:19], gone["at"][:19], ", ".join(clerks))
            rows.append((ask["entry"], who))
    return [(str(entry), *who) for entry, who in sorted(rows)]


def _status_row(request: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        request["id"][:8],
        request["state"],
        ", ".join(request["concepts"]),
        ", ".join(map(repr, request["anchor"])),
        request["method"],
        request["added"][:19],
        (request["revoked"] or "")[:19],
        ", ".join(name or "not stated" for name in request["asked_by"]),
    )


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2%}"
