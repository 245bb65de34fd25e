"""The lease of a shared store: one command writes it at a time, on whatever machine.

Locks of a kernel do not reach other machines, and object stores have none. Each command writes a claim of its own, then
lists all claims: of two that start at once, at least one sees the other's, and who sees one takes its own back. A claim
that nobody has renewed for two minutes is void, as is that of a process of this machine that has died.
"""

import json
import platform
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ...core.errors import OutputError
from ...core.hashing import hash_json
from ...core.output_lock import holder_record, own_command
from .shared_files import SharedFiles

_FOLDER = "lease"
_RENEWAL = 20.0  # seconds between renewals
_LIFE = 120.0  # seconds after which a claim that is not renewed is void
_TRIES = 4


@contextmanager
def store_lease(files: SharedFiles) -> Iterator[str]:
    """Hold the lease of a store, and yield the name of its file; `OutputError` if another command has it."""
    name = _claim(files)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(files, name, ended), daemon=True)
    renewal.start()
    try:
        yield name
    finally:
        ended.set()
        renewal.join()
        files.remove(name)


def _claim(files: SharedFiles) -> str:
    for left in reversed(range(_TRIES)):
        name = f"{_FOLDER}/{uuid.uuid4().hex}.json"
        _write(files, name, held=False)
        others = _others(files, name)
        if not others:
            _write(files, name, held=True)
            return name
        files.remove(name)
        holder = next((one for one in others if one.get("held")), None)
        if holder is not None or not left:
            one = holder or others[0]
            raise OutputError(
                f"store {files.shown} is being written by process {one.get('process')} on {one.get('host')}"
                f" (`{one.get('command')}`, since {one.get('since')}): wait until it ends, or name another --store"
            )
        time.sleep(random.uniform(0.2, 1.0))  # Both have taken theirs back: the sooner one gets it.
    raise AssertionError


def _write(files: SharedFiles, name: str, held: bool) -> None:
    own = {**holder_record(own_command()), **_whose(), "held": held}
    files.write(name, json.dumps(own).encode())


def _whose() -> dict[str, object]:
    """This process among those of all machines."""
    began = psutil.Process().create_time()
    return {"host": platform.node(), "machine": hash_json([platform.node(), uuid.getnode()])[:16], "began": began}


def _others(files: SharedFiles, own: str) -> list[dict[str, object]]:
    """The claims of others that are in force. Void ones are removed."""
    now, found = files.modified(own), []
    for name in files.names(_FOLDER):
        written = files.modified(name)
        if name == own or written is None:
            continue
        claim = _read(files.read(name))
        if (now is not None and now - written > _LIFE) or _has_died(claim):
            files.remove(name)
        else:
            found.append(claim)
    return found


def _read(data: bytes | None) -> dict[str, object]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:  # It is just being written.
        found = {}
    return found if isinstance(found, dict) else {}


def _has_died(claim: dict[str, object]) -> bool:
    """Whether it is of a process of this machine that is no more."""
    if claim.get("machine") != _whose()["machine"]:
        return False
    try:
        return bool(psutil.Process(int(str(claim.get("process")))).create_time() != claim.get("began"))
    except (psutil.Error, ValueError):
        return True


def _renew(files: SharedFiles, name: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEWAL):
        try:
            _write(files, name, held=True)
        except OutputError:  # The next renewal may succeed; what is written meanwhile says what fails.
            continue
