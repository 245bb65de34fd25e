"""Reads the pictures that a user wants to protect, and names their copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...core.errors import DataError, require
from ...models import ModelView
from ...models.diffusion.vae import require_picture_size
from ...models.images import has_metadata, picture_files, read_picture


@dataclass(frozen=True)
class GivenPicture:
    """A picture to protect."""

    path: Path
    picture: Tensor
    """(3, h, w) in [0, 1], in 8 bits."""
    has_metadata: bool
    """Whether its file holds EXIF or other data that a copy will not hold."""

    @property
    def copy_name(self) -> str:
        """Name of the protected copy: PNG, because another compression would change the protection."""
        return f"{self.path.stem}.png"


def read_given_pictures(paths: Sequence[Path], model: ModelView) -> list[GivenPicture]:
    """Read files, and folders of them, in the given order.

    `DataError` for none, for what is no picture, for another size than the model's, and for two with one name.
    """
    require(bool(paths), "no pictures: give files or folders of them", DataError)
    files: list[Path] = []
    for path in paths:
        found = picture_files(path) if path.is_dir() else [path]
        require(bool(found), f"pictures {path}: the folder is empty; give at least one picture", DataError)
        files += found
    given: dict[str, GivenPicture] = {}
    for file in files:
        one = GivenPicture(file, read_picture(file), has_metadata(file))
        require_picture_size(model, one.picture[None], str(file))
        other = given.setdefault(one.copy_name.lower(), one)
        message = f"{other.path} and {file} would both be written as {one.copy_name}: rename one of them"
        require(other is one, message, DataError)
    return list(given.values())
