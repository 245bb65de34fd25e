"""`unconcept ledger`: requests one by one, some taken back, one edit of those in force."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import ledger_views, options
from .console import exit_codes, print_json, quiet_libraries
from .ledger_desk import (
    BaseFlag,
    BecauseFlag,
    ByFlag,
    LedgerArgument,
    RecipeFlag,
    SetFlag,
    absolute_source,
    entry_note,
    ledger_training,
    open_base_model,
    open_ledger,
    open_ledger_model,
    plan_request,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Keep a record of requests to erase, and make the edit of those in force.",
)
for _view in (ledger_views.status, ledger_views.drift, ledger_views.verify, ledger_views.audit, ledger_views.diff):
    app.command(_view.__name__)(_view)


@app.command()
def init(
    folder: LedgerArgument,
    model: options.ModelFlag = "moji",
    method: Annotated[
        str | None, typer.Option(help="Method; see `unconcept methods`.  [default: uce]", show_default=False)
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            help="How trained requests become one state: recompute, merge or sequential. Closed forms fold exactly."
        ),
    ] = "recompute",
    merge: Annotated[
        str | None,
        typer.Option(help="Of rule merge: uniform, task-arithmetic or ties.  [default: ties]", show_default=False),
    ] = None,
    merge_scale: Annotated[
        float | None,
        typer.Option(help="Of task-arithmetic and ties: factor of every change.  [default: 1.0]", show_default=False),
    ] = None,
    merge_topk: Annotated[
        float | None,
        typer.Option(help="Of ties: share of each tensor's entries that is kept.  [default: 0.2]", show_default=False),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Of rule sequential: previous (the model before the request) or pretrained.  [default: previous]",
            show_default=False,
        ),
    ] = None,
    regulariser: options.RegularisersFlag = None,
    recipe: RecipeFlag = None,
    set_: SetFlag = None,
    by: ByFlag = "",
    because: BecauseFlag = "",
) -> None:
    """Begin an empty ledger."""
    with exit_codes():
        quiet_libraries()
        from ..core.settings import parse_assignment
        from ..ledger.ledger import create_ledger, resolve_policy
        from ..methods import methods
        from ..training.regularisers import build_regularisers

        at = absolute_source(model)
        job = plan_request(
            at,
            method,
            recipe,
            set_,
            regularisers=dict(parse_assignment(text, "--regulariser") for text in regulariser or []),
        )
        regularising = build_regularisers(job.regularisers, methods[job.method].mechanism, job.method)
        policy = replace(
            resolve_policy(rule, {"how": merge, "scale": merge_scale, "topk": merge_topk}, teacher),
            regularisers=regularising,
        )
        begun = create_ledger(
            folder, open_base_model(at, "cpu"), job.method, job.settings or {}, policy, entry_note(by, because)
        )
        settings = ", ".join(f"{name} = {value}" for name, value in begun.request_states.settings[job.method].items())
        print(f"rule {rule}, {job.method} with {settings} -> {folder}")


@app.command()
def add(
    folder: LedgerArgument,
    concepts: Annotated[
        list[str] | None, typer.Argument(help="What to erase; several are one request.", show_default=False)
    ] = None,
    concepts_file: Annotated[Path | None, typer.Option("--concepts", help="File with one more concept a line.")] = None,
    anchor: Annotated[
        list[str] | None, typer.Option(help="What to read it as: one, or one a concept; '' is legal.")
    ] = None,
    retain: Annotated[list[str] | None, typer.Option(help="Text that must not change; repeatable.")] = None,
    retain_file: Annotated[Path | None, typer.Option(help="File with one retained text a line.")] = None,
    kind: Annotated[str | None, typer.Option(help="object, style, person, character, harmful or explicit.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Method.  [default: the one that the ledger was begun with]", show_default=False)
    ] = None,
    recipe: RecipeFlag = None,
    set_: SetFlag = None,
    by: ByFlag = "",
    because: BecauseFlag = "",
    model: BaseFlag = None,
    device: options.DeviceFlag = "auto",
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Put a request in force. What it says is on the disk when the command returns."""
    with exit_codes():
        quiet_libraries()
        from ..core.text_files import read_lines
        from ..erasing.request_defaults import resolve_request
        from ..ledger.operations import add_request as put

        ledger = open_ledger(folder)
        wanted = [*(concepts or []), *read_lines(concepts_file)]
        kept = [*(retain or []), *read_lines(retain_file)] if retain or retain_file else None
        name, view = method or ledger.first["method"], open_ledger_model(ledger, model, device)
        asks_anew = recipe or set_ or name not in ledger.request_states.settings
        job = plan_request(view.name, name, recipe, set_, concepts=wanted, anchors=anchor, retain=kept, kind=kind)
        ledger.require_regularisers(job.regularisers)
        request = resolve_request(job.ask, view.name).request
        with ledger_training(ledger, [job.method, str(job.settings), str(request)], quiet):
            came = put(
                ledger, view, wanted, request, job.method, job.settings if asks_anew else None, entry_note(by, because)
            )
        if as_json:
            print_json({"id": came.id, "came": came.came, "near": [dict(one) for one in came.near]})
            return
        print(f"{came.came}: {came.id} ({', '.join(wanted)})")
        for one in came.near:
            print(f"near {one['target']!r} of {one['id'][:8]}: cosine {one['cosine']} with {one['to']!r}")


@app.command()
def revoke(
    folder: LedgerArgument,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The beginning of a request's id.")],
    by: ByFlag = "",
    because: BecauseFlag = "",
    as_json: options.JsonFlag = False,
) -> None:
    """Take a request back: the state is then as if it had never been asked."""
    with exit_codes():
        from ..ledger.operations import revoke_request as take_back

        gone = take_back(open_ledger(folder), id_, entry_note(by, because))
        if as_json:
            print_json(gone.data())
        else:
            print(f"revoked: {gone.id} ({', '.join(gone.content.concepts)})")


@app.command()
def repair(folder: LedgerArgument) -> None:
    """Mend what a process that died left behind. Entries that were acknowledged are never touched."""
    with exit_codes():
        from ..ledger.verify import repair_ledger as mend

        for line in mend(folder) or ["nothing to mend"]:
            print(line)


@app.command()
def materialize(
    folder: LedgerArgument,
    out: options.OutFlag,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Write a whole model besides.")] = False,
    by: ByFlag = "",
    because: BecauseFlag = "",
    model: BaseFlag = None,
    device: options.DeviceFlag = "auto",
    overwrite: options.OverwriteFlag = False,
    as_json: options.JsonFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Write the edit of what is in force, with a card that says of which requests it is."""
    with exit_codes():
        quiet_libraries()
        from ..ledger.materialize import materialize_ledger as write

        ledger = open_ledger(folder)
        with ledger_training(ledger, [one.id for one in ledger.request_states.active], quiet):
            card = write(
                ledger, open_ledger_model(ledger, model, device), out, checkpoint, overwrite, entry_note(by, because)
            )
        if as_json:
            print_json(card)
        else:
            print(f"{len(card['in_force'])} requests, edit {card['edit']['hash'][:12]} -> {out}")
