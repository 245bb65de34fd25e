"""What a command would do, write and download, and about what it would cost: the one form of every `--dry-run`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PlannedStep:
    """One step of a command, in the order in which it would be done."""

    what: str
    seconds: float | None = 0.0
    """Estimated seconds on this device; None if they cannot be known yet."""
    basis: str = ""
    """How the seconds were estimated."""


@dataclass(frozen=True)
class PlannedFile:
    """A file or folder that would be written."""

    path: str
    bytes: int | None = None
    """Its size, about; None if it is not known."""


@dataclass(frozen=True)
class PlannedDownload:
    """A repository of which files would be fetched."""

    name: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The plan of one command."""

    facts: Mapping[str, str]
    """What it is about, by topic."""
    steps: tuple[PlannedStep, ...]
    files: tuple[PlannedFile, ...] = ()
    downloads: tuple[PlannedDownload, ...] = ()

    @property
    def seconds(self) -> float:
        """The sum of the seconds that are known."""
        return sum(step.seconds or 0.0 for step in self.steps)

    @property
    def is_complete(self) -> bool:
        """Whether the seconds of all steps are known."""
        return all(step.seconds is not None for step in self.steps)

    def data(self) -> dict[str, Any]:
        """The plan as plain data, with the sum of its seconds."""
        return {**asdict(self), "seconds": self.seconds, "is_complete": self.is_complete}


def planned_file(path: Path, size: float | None = None) -> PlannedFile:
    """A file that would be written, about so large in bytes."""
    return PlannedFile(str(path), None if size is None else round(size))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
