"""The command line: parses options, calls one job, prints. Nothing heavy is imported before a command runs."""

from collections.abc import Callable

import typer

from . import apply, erase, evaluate, explain, export, imported, ledger, sample, tables
from .commands import command
from .console import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Erase concepts from text-to-image models, and measure whether they are gone.",
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "erase": erase.erase,
    "apply": apply.apply,
    "export": export.export,
    "import": imported.import_,
    "sample": sample.sample,
    "evaluate": evaluate.evaluate,
    "attack": evaluate.attack,
    "bench": evaluate.bench,
    "explain": explain.explain,
}
for _name, _function in _COMMANDS.items():
    app.command(_name)(command(_function))
app.add_typer(ledger.app, name="ledger")
for _table in (tables.methods, tables.attacks, tables.scorers, tables.suites, tables.specs):
    app.command(_table.__name__)(command(_table))

__all__ = ["app"]
