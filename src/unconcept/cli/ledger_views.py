"""`unconcept ledger status`, `drift`, `verify`, `audit`, `diff`: what a ledger says of itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import EXIT_FAILED, exit_codes, print_json, print_table, quiet_libraries
from .ledger_desk import (
    BaseFlag,
    ByFlag,
    LedgerArgument,
    absolute_source,
    entry_note,
    ledger_training,
    open_ledger,
    open_ledger_model,
)

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger


def status(
    folder: LedgerArgument,
    as_json: options.JsonFlag = False,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.")] = None,
    overwrite: options.OverwriteFlag = False,
    model: BaseFlag = None,
) -> None:
    """Say what is in force, since when, and where requests contradict one another. No model is opened."""
    with exit_codes():
        from ..ledger.ledger import Ledger
        from ..ledger.status import ledger_status as told_of

        ledger = Ledger.open(folder, torn=True)
        told = told_of(ledger, ledger.refresh(torn=True))
        if html is not None:
            _page(ledger, told, html, overwrite, model)
        elif as_json:
            print_json(told)
        else:
            _print_status(told)
        if told["torn"]:
            typer.echo(
                "unconcept: the last line was never finished; no entry is lost: mend it with `unconcept ledger repair"
                f" {folder}`",
                err=True,
            )


def drift(
    folder: LedgerArgument,
    history: Annotated[
        bool, typer.Option("--history", help="After every entry: of closed forms, merges and sequences.")
    ] = False,
    model: BaseFlag = None,
    device: options.DeviceFlag = "auto",
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Say how far the state is from the base."""
    with exit_codes():
        quiet_libraries()
        from ..ledger.drift import measure_drift as now
        from ..ledger.drift_history import drift_history as before

        ledger = open_ledger(folder)
        view = open_ledger_model(ledger, model, device)
        if history:
            steps = before(ledger, view)
            shares = [(_share(s.weights), _share(s.mean_drift), _share(s.worst_drift)) for s in steps]
            norms = ["n/a" if s.norm is None else f"{s.norm:.4f}" for s in steps]
            cells = [
                (s.at[:19], s.op, ", ".join(s.concepts), str(s.in_force), norm, *own)
                for s, norm, own in zip(steps, norms, shares, strict=True)
            ]
            titles = ("when", "what", "concepts", "in force", "|T|", "weights", "retained, mean", "retained, worst")
            (
                print_json([vars(step) for step in steps])
                if as_json
                else print_table("drift after every entry", titles, cells)
            )
            return
        with ledger_training(ledger, ["drift"], quiet):
            found = now(ledger, view)
        if as_json:
            print_json(found.data())
            return
        changed = f"{found.total:.4%} of their norm over {len(found.layers)} tensors"
        print(f"weights: {changed if found.layers else 'none is changed, what is in force runs beside the model'}")
        worst = [(one.text, f"{one.share:.2%}", one.nearest, f"{one.cosine:.3f}") for one in found.retained[:12]]
        if worst:
            print(f"retained texts: {_share(found.function)} of their readings' norm")
            print_table("retained texts that moved most", ("text", "moved", "nearest target", "cosine"), worst)


def verify(
    folder: LedgerArgument,
    bytes_only: Annotated[
        bool, typer.Option("--bytes-only", help="Do not open the model and build the state.")
    ] = False,
    model: BaseFlag = None,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Hash everything again and build the state again; name every fault. Exits with 1 if there is one."""
    with exit_codes():
        quiet_libraries()
        from ..ledger.verify import verify_ledger as check

        found = check(folder)
        if not (bytes_only or found.faults or found.torn):
            ledger = open_ledger(folder)
            with ledger_training(ledger, ["verify"], quiet):
                found = check(folder, open_ledger_model(ledger, model, "auto"))
        if as_json:
            print_json(vars(found))
        elif not (found.faults or found.torn):
            print(
                f"sound: {found.entries} entries, {found.artifacts} artifacts"
                + (f", state {found.state}" if found.state else "")
            )
        for line in found.notes:
            typer.echo(f"note: {line}", err=True)
        torn = (
            [f"the last line was never finished; no entry is lost: `unconcept ledger repair {folder}`"]
            if found.torn
            else []
        )
        for fault in [*found.faults, *torn]:
            typer.echo(f"unconcept: FAILED: {fault}", err=True)
        if found.faults or torn:
            raise typer.Exit(EXIT_FAILED)


def audit(
    folder: LedgerArgument,
    id_: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="The beginning of one request's id.  [default: all in force]", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the fine-tune.")] = 100,
    pictures: Annotated[int, typer.Option(min=1, max=1000, help="Of each concept, each time.")] = 8,
    seed: options.SeedFlag = 0,
    by: ByFlag = "",
    model: BaseFlag = None,
    device: options.DeviceFlag = "auto",
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Fine-tune the edited model a little on other pictures, look whether what was erased comes back, and fold the
    ledger on it anew.
    """
    with exit_codes():
        quiet_libraries()
        from ..evaluation.attacks.resurgence_audit import FineTuneResurgence
        from ..evaluation.tasks.picture_store import PictureStore, default_store
        from ..ledger.audit import audit_requests as look_at

        ledger = open_ledger(folder)
        base = absolute_source(model or ledger.first["model"])
        look = FineTuneResurgence(PictureStore(default_store()), pictures, steps, seed=seed, model=base)
        with ledger_training(ledger, ["audit"], quiet):
            found = look_at(ledger, open_ledger_model(ledger, model, device), look, entry_note(by, ""), id_)
        if as_json:
            print_json(found)
            return
        rows = [
            (
                key[:8],
                concept,
                *(str(seen[name]) for name in ("pictures", "unedited", "edited", "tuned", "refolded", "came_back")),
            )
            for key, one in found.items()
            for concept, seen in one["concepts"].items()
        ]
        print_table(
            "pictures that show the concept",
            ("id", "concept", "of", "unedited", "edited", "fine-tuned", "and folded anew", "came back"),
            rows,
        )


def diff(
    folder: LedgerArgument,
    other: Annotated[Path, typer.Argument(metavar="DIR2", help="The other ledger.")],
    as_json: options.JsonFlag = False,
) -> None:
    """Say what is in force in one ledger and not in the other."""
    with exit_codes():
        from ..ledger.diff import compare_ledgers

        found = compare_ledgers(open_ledger(folder), open_ledger(other))
        if as_json:
            print_json(found)
            return
        print("the same state" if found["same"] else f"{found['both']} requests in both")
        for sign, side in (("-", "only_first"), ("+", "only_second")):
            for one in found[side]:
                print(f"{sign} {one['id'][:8]} {', '.join(one['concepts'])} ({one['method']})")
        for name, (mine, theirs) in found["apart"].items():
            print(f"{name}: {mine} | {theirs}")


def _print_status(told: Mapping[str, Any]) -> None:
    rows = [
        (
            r["id"][:8],
            r["state"],
            ", ".join(r["concepts"]),
            ", ".join(map(repr, r["anchor"])),
            r["method"],
            r["added"][:19],
            (r["revoked"] or "")[:19],
            r["by"],
        )
        for r in told["requests"]
    ]
    base = told["base"]
    print_table(
        f"{told['active']} of {len(rows)} requests in force; rule {told['rule']}; base {base['model']}"
        f" ({base['family']}, {base['text_maps'][:12]})",
        ("id", "state", "concepts", "read as", "method", "added", "revoked", "by"),
        rows,
    )
    for one in told["conflicts"]:
        print(f"{one['conflict']}: {one['text']}: {one['policy']} ({', '.join(id_[:8] for id_ in one['requests'])})")


def _page(ledger: "Ledger", told: dict[str, Any], out: Path, overwrite: bool, model: str | None) -> None:
    from ..ledger.page import write_ledger_page

    write_ledger_page(ledger, told, open_ledger_model(ledger, model, "auto"), out, overwrite)
    print(f"-> {out}")


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2%}"
