"""What the commands of `unconcept ledger` share: options, opening a ledger and its base, and trainings that go on."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import progress

if TYPE_CHECKING:
    from ..jobs.erase import Job
    from ..ledger.ledger import EntryNote, Ledger
    from ..models import ModelView

LedgerArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the ledger.")]
ByFlag = Annotated[str, typer.Option(help="Who asks, for the record.")]
BecauseFlag = Annotated[str, typer.Option(help="Why, for the record.")]
BaseFlag = Annotated[
    str | None,
    typer.Option(
        "--model", help="Where the base is now, if it was moved.  [default: as the ledger says]", show_default=False
    ),
]
SetFlag = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the method; repeatable.")
]
RecipeFlag = Annotated[str | None, typer.Option(help="Recipe by name, or a .toml file.")]


def open_ledger(folder: Path) -> "Ledger":
    """Open the ledger in a folder."""
    from ..ledger.ledger import Ledger

    return Ledger.open(folder)


def entry_note(by: str, because: str) -> "EntryNote":
    """Who asks and why, as an entry records it."""
    from ..ledger.ledger import EntryNote

    return EntryNote(by, because)


def absolute_source(model: str) -> str:
    """A path as it is from everywhere; names of embedded models and Hub ids as they are."""
    from ..worlds.registry import embedded_world

    path = Path(model).expanduser()
    return str(path.resolve()) if embedded_world(model) is None and path.exists() else model


def open_base_model(model: str, device: str) -> "ModelView":
    """In float32 always: text states shall not depend on what a command was told."""
    from ..models import open_model

    return open_model(model, device, "float32")


def open_ledger_model(ledger: "Ledger", model: str | None, device: str) -> "ModelView":
    """Open the model that is named, or else the one that the ledger names."""
    return open_base_model(absolute_source(model or ledger.first["model"]), device)


def plan_request(model: str, method: str | None, recipe: str | None, set_: list[str] | None, **asked: Any) -> "Job":
    """Method, settings and what is asked, as `unconcept erase` would take them.

    `SettingsError` for a recipe that trains in another way than usual.
    """
    from ..core.errors import require
    from ..core.settings import parse_assignment
    from ..jobs.resolve import plan_job
    from ..training.options import changed_options

    assignments = dict(parse_assignment(text) for text in set_ or [])
    job = plan_job(
        **{"concepts": (), **asked}, out=Path("out"), model=model, method=method, recipe=recipe, assignments=assignments
    ).job
    other = ", ".join(changed_options(job.options))
    require(
        not other,
        f"recipe {recipe}: {other}: trainings of a ledger run as usual, so that their bytes can be made again; take it"
        " out of [training]",
    )
    return job


@contextmanager
def ledger_training(ledger: "Ledger", about: list[str], quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Inside, trainings tell how far they are, and go on where a former sitting of the same was stopped."""
    from ..core.hashing import hash_json
    from ..erasing.make_edit import train_in_folder

    folder = ledger.folder / "training" / hash_json(about)[:12]
    with progress(quiet) as tell, train_in_folder(folder, tell):
        yield tell
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # Not empty: another training was stopped.
        folder.parent.rmdir()
