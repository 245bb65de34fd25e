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
    from ..ledger.ledger import Ledger, Note
    from ..models import ModelView

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the ledger.")]
By = Annotated[str, typer.Option(help="Who asks, for the record.")]
Because = Annotated[str, typer.Option(help="Why, for the record.")]
Base = Annotated[str | None, typer.Option("--model", help="Where the base is now, if it was moved.  [default: as the ledger says]", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the method; repeatable.")]
Recipe = Annotated[str | None, typer.Option(help="Recipe by name, or a .toml file.")]


def opened(folder: Path) -> "Ledger":
    from ..ledger.ledger import Ledger

    return Ledger.open(folder)


def note(by: str, because: str) -> "Note":
    from ..ledger.ledger import Note

    return Note(by, because)


def place(model: str) -> str:
    """A path as it is from everywhere; `moji` and Hub ids as they are."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model != "moji" and path.exists() else model


def base(model: str, device: str) -> "ModelView":
    """In float32 always: text states shall not depend on what a command was told."""
    from ..models import open_model

    return open_model(model, device, "float32")


def view_of(ledger: "Ledger", model: str | None, device: str) -> "ModelView":
    return base(place(model or ledger.first["model"]), device)


def planned(model: str, method: str | None, recipe: str | None, set_: list[str] | None, **asked: Any) -> "Job":
    """Method, settings and what is asked, as `unconcept erase` would take them. `SettingsError` for a recipe that trains in another way than usual."""
    from ..core.errors import require
    from ..core.settings import parse_assignment
    from ..jobs.resolve import plan
    from ..training.options import changed

    assignments = dict(parse_assignment(text) for text in set_ or [])
    job = plan(**{"concepts": (), **asked}, out=Path("out"), model=model, method=method, recipe=recipe, assignments=assignments).job
    other = ", ".join(changed(job.options))
    require(not other, f"recipe {recipe}: {other}: trainings of a ledger run as usual, so that their bytes can be made again; take it out of [training]")
    return job


@contextmanager
def training(ledger: "Ledger", about: list[str], quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Inside, trainings tell how far they are, and go on where a former sitting of the same was stopped."""
    from ..core.hashing import hash_json
    from ..erasing.make_edit import training_in

    folder = ledger.folder / "training" / hash_json(about)[:12]
    with progress(quiet) as tell, training_in(folder, tell):
        yield tell
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # Not empty: another training was stopped.
        folder.parent.rmdir()
