"""Files of a store that several machines share: names and bytes, in a folder or at an fsspec URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import MissingExtra, OutputError, SettingsError
from ...core.escapes import without_credentials
from ...core.output_folder import STORE_REMEDY

_REMEDY = "name a --store that can be read and written"


def is_url(place: str | Path) -> bool:
    """Whether a store is named by a URL, not by the path of a folder."""
    return "://" in str(place)


@dataclass(frozen=True)
class SharedFiles:
    """A folder, or a place of any file system that fsspec opens. Nothing in it is ever unpickled."""

    fs: Any
    """The file system of fsspec."""
    root: str
    place: str | Path
    """What was opened."""

    @property
    def shown(self) -> str:
        """Its name in messages, without a password."""
        return without_credentials(str(self.place))

    @classmethod
    def at(cls, place: str | Path) -> "SharedFiles":
        """Open a folder or a URL. `MissingExtra` if the library of its file system is not installed, `OutputError` if
        the place cannot be reached.
        """
        import fsspec

        shown = without_credentials(str(place))
        try:
            fs, root = fsspec.url_to_fs(str(place) if is_url(place) else str(Path(place).resolve()))
        except ImportError as error:
            raise MissingExtra(f"store {shown}: {_reason(error)}: install it, or name a folder") from None
        except ValueError as error:
            told = f"{_reason(error)}; name a folder or a URL of fsspec, as s3://BUCKET/F"
            raise SettingsError(f"store {shown}: {told}") from None
        except Exception as error:  # Some connect at once, and their libraries have exceptions of their own.
            raise OutputError(f"store {shown}: {_reason(error)}; {_REMEDY}") from None
        return cls(fs, root.rstrip("/"), place)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if there is none."""
        with self._errors():
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        with self._errors():
            path = f"{self.root}/{name}"
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(path, data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._errors():
            try:
                self.fs.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

    def names(self, folder: str = "") -> list[str]:
        """The names of all files below the root, or below a folder of it, as they are now."""
        with self._errors():
            self.fs.invalidate_cache()
            place = f"{self.root}/{folder}".rstrip("/")
            try:
                found = self.fs.find(place)
            except FileNotFoundError:
                return []
            return [str(path)[len(self.root) + 1 :] for path in found]

    def modified(self, name: str) -> float | None:
        """When a file was last written, by the clock of the place, in seconds; None if it is not there."""
        with self._errors():
            try:
                return float(self.fs.modified(f"{self.root}/{name}").timestamp())
            except FileNotFoundError:
                return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of any file system as one `OutputError`: their libraries have exceptions of their own."""
        try:
            yield
        except Exception as error:
            remedy = _REMEDY if is_url(self.place) else STORE_REMEDY
            raise OutputError(f"store {self.shown}: {_reason(error)}; {remedy}") from None


def _reason(error: Exception) -> str:
    """What an error says, on one line."""
    said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return without_credentials(said.splitlines()[0])
