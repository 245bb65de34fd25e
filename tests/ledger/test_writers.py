"""Writers that run out of space, may not write, meet, or are killed: the ledger is valid after each, and nothing
acknowledged is lost.
"""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.ledger.desk import ask, ledger, model
from tests.ledger.test_audit_pictures import drawn
from tests.ledger.test_forget import Look
from unconcept.core.errors import LedgerError, OutputError
from unconcept.ledger.audit import audit_requests
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage import disk
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.ledger.verify import verify_ledger


@pytest.mark.parametrize("after", [0, 10])
def test_a_full_disk_changes_nothing(book, after, monkeypatch) -> None:
    """Midway through an entry: what was written of it is taken away again."""
    real, before = os.write, (book.folder / ENTRIES_FILE).read_bytes()

    def full(handle: int, data: bytes) -> int:
        if after and len(data) > after:
            return real(handle, data[:after])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "write", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was changed"):
        ask(book, 5)
    monkeypatch.undo()
    assert (book.folder / ENTRIES_FILE).read_bytes() == before
    assert verify_ledger(book.folder).faults == ()
    assert ask(book, 5).came == "added"


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_begins_no_ledger(there, tmp_path, monkeypatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if there:
        (tmp_path / "l").mkdir()
    monkeypatch.setattr(disk.os, "write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        ledger(tmp_path / "l")
    monkeypatch.undo()
    assert list(tmp_path.rglob("*")) == [tmp_path / "l"] * there
    assert ask(ledger(tmp_path / "l"), 1).came == "added"


def test_a_full_disk_for_artifacts_changes_nothing(book, monkeypatch) -> None:
    def full(path: Path, slots: object, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unconcept.ledger.storage.artifacts.write_deferred_tensors", full)
    with pytest.raises(OutputError, match="No space left"):
        ask(book, 5)
    assert verify_ledger(book.folder).notes == ()


def test_a_read_only_folder_is_said(book, monkeypatch) -> None:
    real = os.open

    def refused(path, flags, *more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more)

    monkeypatch.setattr(disk.os, "open", refused)
    for verb in (lambda: revoke_request(book, book.request_states.active[0].id, EntryNote()), lambda: ask(book, 2 + 2)):
        with pytest.raises(OutputError, match="Permission denied; nothing was changed"):
            verb()
    assert ledger_status(Ledger.open(book.folder))["active"] == 1


def test_two_writers_lose_nothing(book) -> None:
    """Two processes that ask at the same time, eight times each."""
    children = []
    for which in range(2):
        if (pid := os.fork()) == 0:
            try:
                own = Ledger.open(book.folder)
                for i in range(8):
                    ask(own, 10 + 8 * which + i)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert verify_ledger(book.folder).faults == ()
    assert len(Ledger.open(book.folder).request_states.active) == 1 + 16


def test_a_writer_that_holds_on_is_named_without_what_it_was_told(book, monkeypatch) -> None:
    """Who, by what command and since when: but nobody's name, since a killed process leaves the record."""
    monkeypatch.setattr(disk, "_LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr("sys.argv", ["/bin/unconcept", "ledger", "add", "l", "dog face", "--by", "Zoe"])
    said = rf"being written by process {os.getpid()} \(`unconcept ledger add`, since 20\d\d-.*\): wait until it ends"
    with disk.folder_lock(book.folder), pytest.raises(LedgerError, match=said):
        ask(book, 5)
    lock = book.folder / disk.LOCK_FILE
    assert lock.read_bytes() == b""
    with disk.folder_lock(book.folder):
        record = lock.read_bytes()
        lock.write_bytes(b"")
        with pytest.raises(LedgerError, match="by another process: wait"):
            ask(book, 5)
    assert b"process" in record
    assert not {word for word in (b"Zoe", b"dog") if word in record}


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment(book, kills, tmp_path) -> None:
    """During add, audit, revoke and materialize: the ledger verifies after each, and what was acknowledged is there."""
    rng = random.Random(kills)
    told = tmp_path / "told"
    for trial in range(kills):
        told.write_bytes(b"")
        if (pid := os.fork()) == 0:
            try:
                _busy(book.folder, told, trial)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.25))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if verify_ledger(book.folder).torn:
            repair_ledger(book.folder)
        assert verify_ledger(book.folder, model()).faults == (), trial
        states = {id_: one.state for id_, one in Ledger.open(book.folder).request_states.by_id.items()}
        acknowledged = dict(line.split() for line in told.read_text().splitlines() if line.endswith("."))
        last = list(acknowledged)[-1:]
        assert all(states[id_] == state.rstrip(".") for id_, state in acknowledged.items() if id_ not in last), trial
        assert not last or last[0] in states
    repair_ledger(book.folder)
    assert not [path for path in book.folder.rglob("*.part") if path.parent.name != "quarantine"]


def _busy(folder: Path, told: Path, trial: int) -> None:
    """Ask, audit one in three and take another back, write out; say what was acknowledged after each."""
    own = Ledger.open(folder)
    with told.open("a") as out:
        for i in range(100):
            came = ask(own, 1000 + 100 * trial + i)
            print(came.id, "active.", file=out, flush=True)
            if i % 3 == 1:
                audit_requests(own, model(), Look(), EntryNote(), came.id, drawn)
            if i % 3 == 2:
                revoke_request(own, came.id, EntryNote())
                print(came.id, "revoked.", file=out, flush=True)
            materialize_ledger(own, model(), folder.parent / "out", False, True, EntryNote())
