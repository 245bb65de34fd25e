"""Every writer of a ledger on a disk that fills up at each of its writes: what it says then is what is so, the ledger
is sound, and the same command succeeds once there is space.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ledger.desk import ask, ledger, model
from tests.ledger.test_asks import ask_as
from tests.ledger.test_audit_pictures import drawn
from tests.ledger.test_forget import Look
from unconcept.core.errors import OutputError
from unconcept.ledger.audit import audit_requests
from unconcept.ledger.forget import forget_ask
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.storage import artifacts
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.ledger.verify import verify_ledger

Writer = Callable[[Path], object]


class FullDisk:
    """From the n-th write on there is no space left: not for data, not for a new file or folder, not for a sync."""

    def __init__(self, patch: pytest.MonkeyPatch, first: int) -> None:
        self.patch, self.first, self.writes = patch, first, 0
        for place, name in (
            (os, "write"),
            (os, "fsync"),
            (Path, "mkdir"),
            (Path, "write_bytes"),
            (Path, "write_text"),
            (artifacts, "write_deferred_tensors"),
        ):
            patch.setattr(place, name, self.counted(getattr(place, name)))

    def counted(self, real: Callable[..., object]) -> Callable[..., object]:
        def write(*given: object, **more: object) -> object:
            self.writes += 1
            if self.writes == self.first or (self.writes > self.first and real.__name__ != "fsync"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given, **more)

        return write


def opened(writer: Callable[[Ledger], object]) -> Writer:
    return lambda folder: writer(Ledger.open(folder))


def torn(folder: Path) -> object:
    with (folder / ENTRIES_FILE).open("ab") as file:
        file.write(b'{"body":')
    (folder / "artifacts/.1.part").touch()
    return repair_ledger(folder)


def twice(book: Ledger) -> str:
    """The id of the request that two asked for."""
    return next(one.id for one in book.request_states.by_id.values() if len(one.asks) == 2)


WRITERS: dict[str, Writer] = {
    "init": lambda folder: ledger(folder.with_name("new")),
    "add": opened(lambda book: ask(book, 5)),
    "add again": opened(lambda book: ask(book, 2)),
    "revoke": opened(lambda book: revoke_request(book, twice(book), EntryNote(), by="Ada")),
    "revoke all": opened(lambda book: revoke_request(book, twice(book), EntryNote(), every=True)),
    "forget": opened(lambda book: forget_ask(book, 4, EntryNote())),
    "materialize": opened(
        lambda book: materialize_ledger(book, model(), book.folder.with_name("out"), False, True, EntryNote())
    ),
    "audit": opened(lambda book: audit_requests(book, model(), Look(), EntryNote(), pictures=drawn)),
    "repair": torn,
}
# What a message may say of the ledger, and by how many entries it has then grown.
CLAIMS = {
    "nothing was changed": {0},
    r"entry \d+ \((add|revoke|audit)\) is on the disk and counts, do not repeat it": {1, 2},
    r"entry \d+ \(forget\) is on the disk and counts, but what it names is not destroyed before": {1},
    r"entry \d+ \(materialize\) is on the disk and counts, but nothing is written out: run the command again": {1},
    "1 of 2 asks are withdrawn; the next one": {1, 2},
    "it is not known whether the entry is on the disk": {0, 1},
    r"run the same `unconcept ledger forget` again": {1},
    "the entry is forgotten, but files of it are left: run the same command again": {1},
    "entry 6 records the state, but .*out is not written": {1},
    r"\d of 2 findings are written; the next one": {1, 2},
    "choose another path": {0},
    "the repair is not complete": {0},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Two ask for one request, one for another; a third was withdrawn."""
    book = ledger(tmp_path_factory.mktemp("full") / "l")
    for name in ("Ada", "Bo"):
        ask_as(book, name, 1)
    ask(book, 2)
    revoke_request(book, ask(book, 3).id, EntryNote())
    return book.folder


SLOW = ("init", "materialize", "audit")  # each begins by hashing or folding a model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WRITERS]
)
def test_what_a_writer_says_of_a_full_disk_is_so(name, prepared, tmp_path) -> None:
    before, failures = (prepared / ENTRIES_FILE).read_bytes(), 0
    for first in range(1, 100):
        folder = tmp_path / str(first) / "l"
        shutil.copytree(prepared, folder)
        try:
            with pytest.MonkeyPatch.context() as patch:
                FullDisk(patch, first)
                WRITERS[name](folder)
        except OutputError as error:
            failures += 1
            said = str(error)
        else:
            break
        assert "No space left on device" in said
        after = (folder / ENTRIES_FILE).read_bytes()
        grown = after.removesuffix(b'{"body":').count(b"\n") - before.count(b"\n")
        claims = [known for known in CLAIMS if re.search(known, said)]
        assert claims, said
        assert any(grown in CLAIMS[claim] for claim in claims), (first, grown, said)
        assert after.startswith(before)
        assert verify_ledger(folder).faults == (), (first, said)
        if "do not repeat it" not in said:
            WRITERS[name](folder)
        repair_ledger(folder)
        found = verify_ledger(folder)
        assert (found.faults, found.notes) == ((), ()), (first, said)
    assert failures > 3, "it writes several times"
