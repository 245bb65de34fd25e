"""Output of commands: errors as one line with an exit code, progress with an ETA, tables."""

import errno
import io
import os
import re
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ..core.errors import UnconceptError, UsageError
from ..core.escapes import json_text, require_unicode, visible_text
from ..core.progress import ignore_progress, report_downloads
from .help import GroupedCommands

EXIT_FAILED, _EXIT_BAD_INPUT, _EXIT_INTERRUPTED = 1, 2, 130
_BARE_FLAGS = {"--ray": "local"}  # flags whose value may be left out, and what it is then
_ADDRESS = re.compile(r"auto|local|\S*:\d+")  # their values, as opposed to other words of a command
_SHOWN_OF_PATH = 60  # characters of a path that is too long


class Commands(GroupedCommands):
    """The group of commands. A wrong flag is bad input like any other: one line on stderr, exit code 2."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command as typer does, but print a usage error on one line instead of several."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # A terminal that is not UTF-8 shows escapes.
                stream.reconfigure(errors="backslashreplace")
        words = with_bare_flags(sys.argv[1:] if args is None else args)
        try:
            with exit_codes():
                for word in words:
                    require_unicode(word, "argument")
            code = super().main(words, *rest, **{**extra, "standalone_mode": False})
        except typer.Exit as refusal:
            code = refusal.exit_code
        except typer.BadParameter.__base__ as error:  # type: ignore[misc]  # Click's UsageError, where typer has it.
            message = error.format_message()
            if type(error).__name__ == "NoArgsIsHelpError":  # Without a command, the message is the help.
                error.show()
            else:
                place = error.ctx.command_path if error.ctx else "unconcept"  # None for an option without its value.
                say(f"unconcept: {' '.join(message.split()).rstrip('.')}; see `{place} --help`", error=True)
            code = _EXIT_BAD_INPUT
        sys.exit(code or 0)


def with_bare_flags(words: Sequence[str]) -> list[str]:
    """Give each flag that stands alone its value: typer knows no flags whose value may be left out."""
    found = list[str]()
    for i, word in enumerate(words):
        if word == "--":
            return [*found, *words[i:]]
        value = _BARE_FLAGS.get(word)
        follows = words[i + 1] if i + 1 < len(words) else ""
        found.append(f"{word}={value}" if value and not _ADDRESS.fullmatch(follows) else word)
    return found


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn our errors into one line on stderr and the documented exit codes, in scripts too: 1, 2, 130."""
    try:
        yield
    except UnconceptError as error:
        say(f"unconcept: {' '.join(str(error).split())}", error=True)
        raise SystemExit(_EXIT_BAD_INPUT if isinstance(error, UsageError) else EXIT_FAILED) from None
    except typer.Exit:
        raise
    except (RuntimeError, MemoryError) as error:
        from accelerate.utils.memory import should_reduce_batch_size

        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        say(
            "unconcept: out of memory: lower --batch-size, or choose a smaller model, a narrower --dtype or another"
            " --device",
            error=True,
        )
        raise SystemExit(EXIT_FAILED) from None
    except OSError as error:  # Of every path that a command is given: the system refuses even to look for it.
        if error.errno != errno.ENAMETOOLONG:
            raise
        start = str(error.filename)[:_SHOWN_OF_PATH]
        say(f"unconcept: {start}...: no path of this system is so long: give a shorter one", error=True)
        raise SystemExit(_EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        say("unconcept: interrupted; run the same command again to continue", error=True)
        raise SystemExit(_EXIT_INTERRUPTED) from None


def say(line: str, error: bool = False) -> None:
    """Print one line on stdout, or on stderr; names in it cannot act on the terminal."""
    print(visible_text(line), file=sys.stderr if error else sys.stdout, flush=True)


def quiet_libraries() -> None:
    """Silence messages of other libraries, through their own environment variables."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


@contextmanager
def network(offline: bool, quiet: bool) -> Iterator[None]:
    """Inside, downloads print lines, or are forbidden; worker processes inherit that through the environment."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with report_downloads(ignore_progress if quiet else _Lines()):
            yield
    finally:
        if offline and before is None:
            del os.environ["HF_HUB_OFFLINE"]
        elif offline:
            os.environ["HF_HUB_OFFLINE"] = str(before)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Report progress: a bar on a terminal from the first second on, lines in a pipe, nothing if quiet.

    Import what is heavy inside the block: that is the bar's first stage.
    """
    if quiet:
        yield lambda what, done, of: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            tell("load", 0, 1)
            yield tell
    else:  # Without a line for that stage: where input is bad, the error is the only line.
        yield _Lines()


def _stage(what: str) -> str:
    """The name of a stage, without details in brackets: `esd (loss 0.02)` is the stage `esd`."""
    return what.partition(" (")[0]


def _is_note(stage: str, done: int, of: int, known: Container[str]) -> bool:
    """Whether this is a message, not a stage: it is told once, as one thing that is done."""
    return done == of == 1 and stage not in known


class _Lines:
    """Prints plain lines: every tenth of a stage with its ETA."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[float, int]] = {}  # when a stage was first reported, and what was done by then
        self.tenths: dict[str, int] = {}

    def __call__(self, what: str, done: int, of: int) -> None:
        now, stage = time.monotonic(), _stage(what)
        if _is_note(stage, done, of, self.begun):
            say(what, error=True)
            return
        tenth = 10 * done // max(of, 1)
        if tenth < self.tenths.get(stage, 0):  # The stage begins again.
            del self.begun[stage], self.tenths[stage]
        begun, first = self.begun.setdefault(stage, (now, done))
        if done and tenth > self.tenths.get(stage, 0):
            self.tenths[stage] = tenth
            is_timed = first < done < of  # Nothing tells how long what was done by `first` took.
            left = f", {(now - begun) / (done - first) * (of - done):.0f} s left" if is_timed else ""
            say(f"{what}: {done}/{of}{left}", error=True)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        stages: dict[str, Any] = {}

        def tell(what: str, done: int, of: int) -> None:
            stage, line = _stage(what), visible_text(what)
            if "load" in stages and stage != "load":
                bar.remove_task(stages.pop("load"))
            if _is_note(stage, done, of, stages):
                bar.console.print(line, markup=False, highlight=False)
                return
            if stage not in stages:
                stages[stage] = bar.add_task(line, total=of)
            bar.update(stages[stage], completed=done, total=of, description=line)

        yield tell


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, as wide as the terminal, or 160 columns in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible_text(title), "table.title"), title_justify="left")
    for column in columns:
        table.add_column(Text(visible_text(column)))
    for row in rows:
        table.add_row(*[Text(visible_text(cell)) for cell in row])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_json(data: Any) -> None:
    """Print data as indented JSON."""
    print(json_text(data, indent=2))
