"""Complete diffusers folders of the embedded models. Parts that several models share are shipped once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ..core.errors import ModelError, require
from ..core.hashing import hash_json
from ..core.output_folder import STORE_REMEDY, default_store, output_errors
from ..core.registry import suggest
from .registry import EmbeddedWorld, worlds

_CONFIG = "config.json"
_LOW_RANK = "low_rank.safetensors"
_KEY_LENGTH = 16


def folder(name: str) -> Path:
    """The path of a complete diffusers folder of an embedded model.

    A model with shared parts is assembled in the store's folder `worlds`; its files are links to those of the package
    where the disk allows it, else copies. When the package's files change, it is assembled anew, beside the old one.
    """
    world = suggest(name, {known: worlds[known] for known in worlds}, "embedded model")
    if not world.shared and not world.low_rank:
        return world.shipped_folder
    files = dict(_files(world))
    if not files:
        raise ModelError(f"{world.shipped_folder} holds no files: install the package again")
    _require_bases(world, files)
    place = default_store() / "worlds" / f"{world.name}-{_key(world, files)}"
    if not _is_complete(place, files):
        with output_errors(place, STORE_REMEDY):
            _assemble(place, world, files)
    return place


def _files(world: EmbeddedWorld) -> Iterator[tuple[str, Path]]:
    """Every file of a complete folder, by its path there."""
    sources = [(world.shipped_folder, "")]
    others = {**world.shared, **world.low_rank}
    sources += [(worlds[owner].shipped_folder / part, f"{part}/") for part, owner in others.items()]
    for source, prefix in sources:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield prefix + path.relative_to(source).as_posix(), path


def _require_bases(world: EmbeddedWorld, files: dict[str, Path]) -> None:
    """Raise `ModelError` if a low-rank part lacks its own file or the weights that it stands beside."""
    for part, owner in world.low_rank.items():
        message = f"{world.name} has no {part}/{_LOW_RANK}: install the package again"
        require(f"{part}/{_LOW_RANK}" in files, message, ModelError)
        base = worlds[owner].shipped_folder / part
        is_there = any(base.glob("*.safetensors"))
        message = f"{world.name} stands beside the {part} of {owner}, which {base} lacks: install the package again"
        require(is_there, message, ModelError)


def _key(world: EmbeddedWorld, files: dict[str, Path]) -> str:
    """Changes whenever a file does."""
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files.values()]
    return hash_json([world.dated_name, {part: dict(own) for part, own in world.config.items()}, [*files], states])[
        :_KEY_LENGTH
    ]


def _is_complete(place: Path, files: dict[str, Path]) -> bool:
    """Whether all files are there; configs and merged weights may have another size than their source."""
    merged = {name.rpartition("/")[0] for name in files if name.endswith(f"/{_LOW_RANK}")}
    for name, source in files.items():
        path, part = place / name, name.rpartition("/")[0]
        if path.name == _LOW_RANK:  # It went into the merged weights.
            continue
        if not path.is_file():
            return False
        is_own = path.name == _CONFIG or (part in merged and path.suffix == source.suffix == ".safetensors")
        if not is_own and path.stat().st_size != source.stat().st_size:
            return False
    return True


def _assemble(place: Path, world: EmbeddedWorld, files: dict[str, Path]) -> None:
    """Assemble under a hidden name, then rename: another process sees a complete folder or none."""
    part = place.with_name(f".{place.name}.{uuid4().hex[:12]}.part")
    try:
        for name, source in files.items():
            target = part / name
            if target.name == _LOW_RANK:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            own = files.get(f"{name.rpartition('/')[0]}/{_LOW_RANK}")
            if own is not None and source.suffix == ".safetensors":
                _merge(source, own, target)
                continue
            changes = world.config.get(name.rpartition("/")[0]) if target.name == _CONFIG else None
            if changes is None:
                _link(source, target)
            else:
                config = {**json.loads(source.read_text(encoding="utf-8")), **changes}
                target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _put(part, place, files)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _merge(base: Path, own: Path, target: Path) -> None:
    """Write weights with a low-rank change added; imported late, because tables are read without torch."""
    from .low_rank import write_merged

    write_merged(base, own, target)


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
