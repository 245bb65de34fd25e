"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

import typer

from . import apply, erase, methods, sample

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Take concepts out of text-to-image models, and prove that they are gone.",
)
app.command("erase")(erase.erase)
app.command("apply")(apply.apply)
app.command("sample")(sample.sample)
app.command("methods")(methods.methods)

__all__ = ["app"]
