"""An output folder that is whole or not there: built under a hidden name beside its place, renamed when complete."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..core.errors import OutputError, require

STATE = "state.json"


def check_free(out: Path, overwrite: bool) -> None:
    """`OutputError` if the folder exists and may not be replaced, or its parent cannot be written."""
    require(overwrite or not out.exists(), f"{out} exists: choose another folder or pass --overwrite", OutputError)
    parent = out.resolve().parent
    while not parent.exists():
        parent = parent.parent
    require(parent.is_dir() and os.access(parent, os.W_OK), f"{parent} cannot be written: choose another place for --out", OutputError)


@contextmanager
def building(out: Path, identity: Mapping[str, object], overwrite: bool) -> Iterator[Path]:
    """Yield the hidden folder; rename it to `out` at the end.

    An interrupted run leaves it, and the same command (same `identity`) goes on in it; any error removes it.
    """
    check_free(out, overwrite)
    part = out.parent / f".{out.name}.part"
    mark = json.dumps(identity, sort_keys=True, default=str)
    if part.exists() and _read(part / STATE) != mark:
        shutil.rmtree(part)
    try:
        part.mkdir(parents=True, exist_ok=True)
        (part / STATE).write_text(mark, encoding="utf-8")
        yield part
        (part / STATE).unlink()
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except KeyboardInterrupt:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own.
        shutil.rmtree(part, ignore_errors=True)
        raise OutputError(f"{out}: {getattr(error, 'strerror', None) or error}; free some space or choose another place for --out") from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
