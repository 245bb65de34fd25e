"""Complete diffusers folders of the embedded models. Parts that several models share are shipped once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ..core.errors import ModelError
from ..core.hashing import hash_json
from ..core.output_folder import STORE_REMEDY, default_store, output_errors
from ..core.registry import suggest
from .registry import EmbeddedWorld, worlds

_CONFIG = "config.json"
_KEY_LENGTH = 16


def folder(name: str) -> Path:
    """The path of a complete diffusers folder of an embedded model.

    A model with shared parts is assembled in the store's folder `worlds`; its files are links to those of the package
    where the disk allows it, else copies. When the package's files change, it is assembled anew, beside the old one.
    """
    world = suggest(name, {known: worlds[known] for known in worlds}, "embedded model")
    if not world.shared:
        return world.shipped_folder
    files = dict(_files(world))
    if not files:
        raise ModelError(f"{world.shipped_folder} holds no files: install the package again")
    place = default_store() / "worlds" / f"{world.name}-{_key(world, files)}"
    if not _is_complete(place, files):
        with output_errors(place, STORE_REMEDY):
            _assemble(place, world, files)
    return place


def _files(world: EmbeddedWorld) -> Iterator[tuple[str, Path]]:
    """Every file of a complete folder, by its path there."""
    sources = [(world.shipped_folder, "")]
    sources += [(worlds[owner].shipped_folder / part, f"{part}/") for part, owner in world.shared.items()]
    for source, prefix in sources:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield prefix + path.relative_to(source).as_posix(), path


def _key(world: EmbeddedWorld, files: dict[str, Path]) -> str:
    """Changes whenever a file does."""
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files.values()]
    return hash_json([world.dated_name, {part: dict(own) for part, own in world.config.items()}, [*files], states])[
        :_KEY_LENGTH
    ]


def _is_complete(place: Path, files: dict[str, Path]) -> bool:
    """Whether all files are there; configs may have another size than their source."""
    for name, source in files.items():
        path = place / name
        if not path.is_file():
            return False
        if path.name != _CONFIG and path.stat().st_size != source.stat().st_size:
            return False
    return True


def _assemble(place: Path, world: EmbeddedWorld, files: dict[str, Path]) -> None:
    """Assemble under a hidden name, then rename: another process sees a complete folder or none."""
    part = place.with_name(f".{place.name}.{uuid4().hex[:12]}.part")
    try:
        for name, source in files.items():
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            changes = world.config.get(name.rpartition("/")[0]) if target.name == _CONFIG else None
            if changes is None:
                _link(source, target)
            else:
                config = {**json.loads(source.read_text(encoding="utf-8")), **changes}
                target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _put(part, place, files)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Another disk, or one without links.
        shutil.copyfile(source, target)


def _put(part: Path, place: Path, files: dict[str, Path]) -> None:
    """Rename the finished folder. A whole one that another process put there first stays, a damaged one does not."""
    if place.exists() and not _is_complete(place, files):
        aside = part.with_name(f"{part.name}.damaged")
        with suppress(FileNotFoundError):  # Another process moved it away.
            place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        part.rename(place)
    except OSError:
        if not _is_complete(place, files):
            raise
