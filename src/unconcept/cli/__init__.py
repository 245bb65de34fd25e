"""The command line: parses options, calls one job, prints. Nothing heavy is imported before a command runs."""

from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from . import (
    apply,
    erase,
    evaluate,
    explain,
    export,
    imported,
    invert,
    ledger,
    protect,
    recheck,
    sample,
    tables,
    worst_case,
)
from .commands import command
from .console import Commands, say
from .help import GroupedCommand

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Erase concepts from text-to-image models, and measure what they still draw.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"unconcept {installed_version('unconcept')}")
        raise typer.Exit


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "make an edit": {"erase": erase.erase, "import": imported.import_},
    "use it": {"sample": sample.sample, "invert": invert.invert, "apply": apply.apply, "export": export.export},
    "measure it": {
        "evaluate": evaluate.evaluate,
        "attack": evaluate.attack,
        "bench": evaluate.bench,
        "worst-case": worst_case.worst_case,
        "recheck": recheck.recheck,
    },
    "protect pictures": {"protect": protect.protect},
}
for _group, _functions in _COMMANDS.items():
    for _name, _function in _functions.items():
        app.command(_name, cls=GroupedCommand, rich_help_panel=_group)(command(_function, has_plan=True))
app.add_typer(ledger.app, name="ledger", rich_help_panel="keep requests")
for _table in (
    *(explain.explain, tables.methods, tables.recipes, tables.attacks),
    *(tables.protections, tables.suites, tables.scorers, tables.specs),
):
    app.command(_table.__name__, cls=GroupedCommand, rich_help_panel="look up")(command(_table))


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Erase concepts from text-to-image models, and measure what they still draw."""


__all__ = ["app"]
