"""`unconcept ledger`: records requests one by one, revokes some, and makes one edit of those in force."""

import typer

from ..jobs.ledger_options import (
    AddOptions,
    ForgetOptions,
    InitOptions,
    LedgerOptions,
    MaterializeOptions,
    RevokeOptions,
)
from . import ledger_views
from .commands import command
from .console import print_json, progress, say
from .help import GroupedCommand, GroupedCommands
from .ledger_views import print_head
from .options import JsonOptions, PrintOptions

app = typer.Typer(
    cls=GroupedCommands,
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
    say(f"rule {options.rule}, {method} with {settings} -> {options.folder}")


def add(options: AddOptions, shown: PrintOptions) -> None:
    """Put a request in force. When the command returns, the request is on the disk."""
    from ..jobs.ledger import add as job

    with progress(shown.quiet) as tell:
        came = job(options, tell)
    if shown.as_json:
        near = [dict(one) for one in came.near]
        print_json({"id": came.id, "came": came.came, "asks": came.asks, "near": near})
        return
    say(f"{came.came}: {came.id} ({', '.join(options.names)})")
    if came.asks > 1:
        say(f"{came.asks} ask for it now: it stays in force until each of them withdraws")
    for one in came.near:
        say(f"near {one['target']!r} of {one['id'][:8]}: cosine {one['cosine']} with {one['to']!r}")


def revoke(options: RevokeOptions, shown: JsonOptions) -> None:
    """Take an ask back. Once nobody asks for a request, the state is the same as if it had never been added."""
    from ..jobs.ledger import revoke as job

    gone = job(options)
    if shown.as_json:
        print_json(gone.data())
    elif gone.standing:
        say(f"withdrawn, but still in force: {gone.id} ({', '.join(gone.content.concepts)})")
        for ask in gone.standing:
            say(f"still asked for in {ask}")
    else:
        say(f"revoked: {gone.id} ({', '.join(gone.content.concepts)})")


def forget(options: ForgetOptions, shown: JsonOptions) -> None:
    """Destroy a withdrawn ask: its text, its id, who asked and why, and all that was made of it."""
    from ..jobs.ledger import forget as job

    gone = job(options)
    if shown.as_json:
        print_json(vars(gone))
        return
    sheets = f", and {gone.pictures} contact sheets of audits" if gone.pictures else ""
    say(f"forgotten: entry {gone.entry}, {gone.parts} parts and {gone.artifacts} artifacts destroyed{sheets}")
    for name in gone.left:
        say(f"left, may hold text of a request: {name}")


def repair(options: LedgerOptions) -> None:
    """Repair what a killed process left behind. Acknowledged entries are never changed."""
    from ..jobs.ledger import repair as job

    for line in job(options) or ["nothing to repair"]:
        say(line)


def materialize(options: MaterializeOptions, shown: PrintOptions) -> None:
    """Write the edit of all requests in force, with a card that lists these requests."""
    from ..jobs.ledger import materialize as job

    with progress(shown.quiet) as tell:
        card = job(options, tell)
    if shown.as_json:
        print_json(card)
    else:
        say(f"{len(card['in_force'])} requests, edit {card['edit']['hash'][:12]} -> {options.out}")
        print_head(card["ledger"]["entries"], card["ledger"]["head"])


for _function in (
    init,
    add,
    revoke,
    forget,
    repair,
    materialize,
    ledger_views.status,
    ledger_views.drift,
    ledger_views.verify,
    ledger_views.audit,
    ledger_views.diff,
):
    app.command(_function.__name__, cls=GroupedCommand)(command(_function, has_plan=True))
