"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

import typer

from . import apply, erase, evaluate, explain, export, imported, ledger, sample, tables
from .console import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Take concepts out of text-to-image models, and prove that they are gone.",
)
app.command("erase")(erase.erase)
app.command("apply")(apply.apply)
app.command("export")(export.export)
app.command("import")(imported.import_)
app.command("sample")(sample.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(evaluate.attack)
app.command("bench")(evaluate.bench)
app.command("explain")(explain.explain)
app.add_typer(ledger.app, name="ledger")
for _table in (tables.methods, tables.attacks, tables.scorers, tables.suites, tables.specs):
    app.command(_table.__name__)(_table)

__all__ = ["app"]
