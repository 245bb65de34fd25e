"""`unconcept ledger`: records requests one by one, revokes some, and makes one edit of those in force."""

import typer

from ..jobs.ledger_options import AddOptions, InitOptions, LedgerOptions, MaterializeOptions, RevokeOptions
from . import ledger_views
from .commands import command
from .console import print_json, progress
from .options import JsonOptions, PrintOptions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Record requests to erase, revoke them, and make one edit of those in force.",
)


def init(options: InitOptions) -> None:
    """Create an empty ledger."""
    from ..jobs.ledger import init as job

    begun = job(options)
    method = begun.first["method"]
    settings = ", ".join(f"{name} = {value}" for name, value in begun.request_states.settings[method].items())
    print(f"rule {options.rule}, {method} with {settings} -> {options.folder}")


def add(options: AddOptions, shown: PrintOptions) -> None:
    """Put a request in force. When the command returns, the request is on the disk."""
    from ..jobs.ledger import add as job

    with progress(shown.quiet) as tell:
        came = job(options, tell)
    if shown.as_json:
        print_json({"id": came.id, "came": came.came, "near": [dict(one) for one in came.near]})
        return
    print(f"{came.came}: {came.id} ({', '.join(options.names)})")
    for one in came.near:
        print(f"near {one['target']!r} of {one['id'][:8]}: cosine {one['cosine']} with {one['to']!r}")


def revoke(options: RevokeOptions, shown: JsonOptions) -> None:
    """Revoke a request: the state is then the same as if it had never been added."""
    from ..jobs.ledger import revoke as job

    gone = job(options)
    if shown.as_json:
        print_json(gone.data())
    else:
        print(f"revoked: {gone.id} ({', '.join(gone.content.concepts)})")


def repair(options: LedgerOptions) -> None:
    """Repair what a killed process left behind. Acknowledged entries are never changed."""
    from ..jobs.ledger import repair as job

    for line in job(options) or ["nothing to repair"]:
        print(line)


def materialize(options: MaterializeOptions, shown: PrintOptions) -> None:
    """Write the edit of all requests in force, with a card that lists these requests."""
    from ..jobs.ledger import materialize as job

    with progress(shown.quiet) as tell:
        card = job(options, tell)
    if shown.as_json:
        print_json(card)
    else:
        print(f"{len(card['in_force'])} requests, edit {card['edit']['hash'][:12]} -> {options.out}")


for _function in (
    init,
    add,
    revoke,
    repair,
    materialize,
    ledger_views.status,
    ledger_views.drift,
    ledger_views.verify,
    ledger_views.audit,
    ledger_views.diff,
):
    app.command(_function.__name__)(command(_function))
