"""What is on the disk: tampering is named, torn ends are mended by `repair_ledger` alone, and what is no ledger of ours
is refused.
"""

import json
import os
import random

import pytest

from tests.ledger.desk import ask, ledger, model, write_plainly, write_sealed
from unconcept.core.errors import LedgerError, OutputError
from unconcept.ledger import ledger as books
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage.disk import canonical_json
from unconcept.ledger.storage.entry_log import ENTRIES_FILE, HEAD_FILE, EntryLog
from unconcept.ledger.storage.heads import read_card_head
from unconcept.ledger.storage.private_file import PRIVATE_FILE
from unconcept.ledger.verify import verify_ledger


def test_a_sound_ledger_verifies_and_builds(book) -> None:
    found = verify_ledger(book.folder, model())
    assert (found.entries, found.faults, found.torn) == (4, (), False)
    assert found.state is not None
    assert repair_ledger(book.folder) == []


def test_a_tampered_byte_anywhere_is_named(book) -> None:
    """Every file, at places all over it, line ends included; nothing is then folded in silence."""
    rng = random.Random(0)
    own = [book.folder / name for name in (ENTRIES_FILE, PRIVATE_FILE, HEAD_FILE)]
    files = [*own, *sorted((book.folder / "artifacts").iterdir())]
    for path in files:
        data = path.read_bytes()
        places = (
            range(len(data)) if path.name == HEAD_FILE else sorted({*rng.sample(range(len(data)), 40), len(data) - 1})
        )
        for at in places:
            changed = bytes([data[at] ^ (1 << rng.randrange(8))])
            path.write_bytes(data[:at] + changed + data[at + 1 :])
            found = verify_ledger(book.folder)
            named = [fault for fault in found.faults if path.name in fault]
            # A byte of the head's file may spell the same numbers in another way: only what it says counts.
            same = (
                path.name == HEAD_FILE and Ledger.open(book.folder).entry_log.last == book.entry_log.last
                if not found.faults
                else False
            )
            assert named or same, (path.name, at, found)
        path.write_bytes(data)
    assert verify_ledger(book.folder).faults == ()


def test_lines_taken_out_or_moved_are_named(book) -> None:
    path = book.folder / ENTRIES_FILE
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    for changed, said in (
        (lines[:1] + lines[2:], "does not follow"),
        ([*lines[:1], lines[2], lines[1], *lines[3:]], "does not follow"),
        (lines[:-1], "some were lost"),
    ):
        path.write_bytes(b"".join(changed))
        assert any(said in fault for fault in verify_ledger(book.folder).faults)
        with pytest.raises(LedgerError, match=said):
            Ledger.open(book.folder)
        with pytest.raises(LedgerError, match="is not a torn last line"):
            repair_ledger(book.folder)
    path.write_bytes(data)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_hand_edited_entry_is_named_even_if_it_is_hashed_anew(book, sealed) -> None:
    """Someone who rewrites the whole chain is found by the id, which is the hash of what is asked."""
    if sealed:
        write_sealed(book, lambda bodies, data: data[1]["what"]["asked"].update(targets=["something else", "more"]))
    else:
        write_plainly(book, lambda bodies: bodies[1]["asked"].update(targets=["something else", "more"]))
    assert any("its id is not the hash of its request" in fault for fault in verify_ledger(book.folder).faults)


def test_a_torn_last_line_is_told_and_mended_by_repair_alone(book) -> None:
    path = book.folder / ENTRIES_FILE
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    for cut in (1, 20, len(line) - 1):
        path.write_bytes(whole + line[:cut])
        assert verify_ledger(book.folder).torn
        assert ledger_status(Ledger.open(book.folder, torn=True), True)["active"] == 1
        for verb in (lambda: ask(Ledger.open(book.folder), 5), lambda: ask(book, 5)):
            with pytest.raises(LedgerError, match=r"torn.*no entry is lost: run `unconcept ledger repair"):
                verb()
        assert "incomplete line" in repair_ledger(book.folder)[0]
        assert path.read_bytes() == whole
        assert verify_ledger(book.folder).faults == ()
    path.write_bytes(whole[:-9])  # This end was acknowledged: it is no torn one.
    with pytest.raises(LedgerError, match="is not a torn last line"):
        repair_ledger(book.folder)
    assert path.read_bytes() == whole[:-9]


def test_an_entry_that_was_written_but_not_acknowledged_counts(book) -> None:
    """The process died between the two: the next writer goes on after it."""
    head = (book.folder / HEAD_FILE).read_bytes()
    came = ask(book, 5)
    (book.folder / HEAD_FILE).write_bytes(head)
    assert verify_ledger(book.folder).faults == ()
    again = Ledger.open(book.folder)
    assert again.request_states.by_id[came.id].state == "active"
    ask(again, 6)
    assert len(Ledger.open(book.folder).request_states.active) == 3


def test_lost_entries_show_by_their_private_parts_though_the_head_was_put_back(book) -> None:
    """A writer that is killed leaves those of one entry; those of two mean that acknowledged lines are gone."""
    files = [book.folder / ENTRIES_FILE, book.folder / HEAD_FILE]
    before = [path.read_bytes() for path in files]
    for number in (5, 6):
        ask(book, number)
        after = [path.read_bytes() for path in files]
        for path, data in zip(files, before, strict=True):
            path.write_bytes(data)
        found = verify_ledger(book.folder)
        if number == 5:
            assert (found.faults, len(found.notes)) == ((), 1)
            Ledger.open(book.folder)
        for path, data in zip(files, after, strict=True):
            path.write_bytes(data)
    said = f"{PRIVATE_FILE} holds parts of entry 5, {ENTRIES_FILE} 4 entries: some were lost"
    assert found.faults == (said,)
    for path, data in zip(files, before, strict=True):
        path.write_bytes(data)
    for verb in (Ledger.open, repair_ledger):
        with pytest.raises(LedgerError, match="some were lost"):
            verb(book.folder)


def test_readers_see_no_loss_while_others_write(book) -> None:
    """The private file may have grown by several entries since the chain was read."""
    log = EntryLog(book.folder)
    real = log.private.refresh

    def late(entries: int) -> bool:
        log.private.refresh = real
        for number in (5, 6):
            ask(book, number)
        return real(entries)

    log.private.refresh = late
    log.refresh()
    assert log.private.beyond == [4, 5]
    log.refresh()
    assert len(log.bodies) == 6


def test_a_missing_artifact_is_named(book) -> None:
    name = book.request_states.active[0].artifacts[0]
    (book.folder / "artifacts" / f"{name}.safetensors").unlink()
    assert any(f"{name}.safetensors is missing" in fault for fault in verify_ledger(book.folder, model()).faults)
    with pytest.raises(LedgerError, match="is missing: restore it"):
        materialize_ledger(Ledger.open(book.folder), model(), book.folder.parent / "out", False, False, EntryNote())
    assert not (book.folder.parent / "out").exists()


def test_revoking_what_is_not_there_twice_or_ambiguous(book) -> None:
    gone, there = sorted(book.request_states.by_id.values(), key=lambda one: one.state == "active")
    for start, said in (
        ("f00f00f", "begins with 'f00f00f'; known:"),
        ("", "begins with ''"),
        (gone.id[:9], "was revoked at"),
    ):
        with pytest.raises(LedgerError, match=said):
            revoke_request(book, start, EntryNote())
    book.request_states._groups |= {"a" + one.id[1:]: one.group for one in (gone, there)}
    with pytest.raises(LedgerError, match="2 ids begin with 'a'"):
        revoke_request(book, "a", EntryNote())
    assert len(Ledger.open(book.folder).entry_log.bodies) == 4


def test_a_clock_that_went_back_is_refused(book, monkeypatch) -> None:
    monkeypatch.setattr(books, "utc_timestamp", lambda: "2001-01-01T00:00:00.000000+00:00")
    with pytest.raises(LedgerError, match=r"the clock shows 2001.*set the clock"):
        ask(book, 5)
    assert verify_ledger(book.folder).faults == ()


def test_a_newer_format_is_refused(book) -> None:
    head = json.loads((book.folder / HEAD_FILE).read_bytes())
    (book.folder / HEAD_FILE).write_bytes(canonical_json({**head, "format": 3}))
    with pytest.raises(LedgerError, match="format version 3, this library reads 1 and 2: update unconcept"):
        Ledger.open(book.folder)


def test_a_newer_format_is_left_as_it_is(book) -> None:
    head = book.folder / HEAD_FILE
    head.write_bytes(head.read_bytes().replace(b'"format":2', b'"format":3'))
    before = head.read_bytes()
    assert verify_ledger(book.folder).faults == (
        f"{HEAD_FILE}: ledger {book.folder} has format version 3, this library reads 1 and 2: update unconcept",
    )
    with pytest.raises(LedgerError, match="has format version 3"):
        repair_ledger(book.folder)
    assert head.read_bytes() == before


def test_what_cannot_be_read_is_said(book) -> None:
    """A folder in its place, since whoever tests may read everything."""
    (book.folder / ENTRIES_FILE).unlink()
    (book.folder / ENTRIES_FILE).mkdir()
    for verb in (Ledger.open, verify_ledger, repair_ledger):
        with pytest.raises(LedgerError, match="cannot be read: Is a directory; make it readable"):
            verb(book.folder)


@pytest.mark.parametrize("name", [ENTRIES_FILE, PRIVATE_FILE, HEAD_FILE])
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused(name, book, tmp_path) -> None:
    """One never ends, the other never begins."""
    (book.folder / name).unlink()
    for make in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")):
        make(book.folder / name)
        for verb in (Ledger.open, _verified, repair_ledger):
            with pytest.raises(LedgerError, match=f"{name} is a pipe, a socket or a device"):
                verb(book.folder)
        (book.folder / name).unlink()
        make(tmp_path / "card")
        with pytest.raises(LedgerError, match="card is a pipe, a socket or a device"):
            read_card_head(tmp_path / "card")
        (tmp_path / "card").unlink()


def _verified(folder) -> None:
    faults = verify_ledger(folder).faults
    raise LedgerError(faults[0] if faults else "no fault")


def test_files_of_lost_entries_are_no_strays(book) -> None:
    (book.folder / ENTRIES_FILE).write_bytes(b"")
    found = verify_ledger(book.folder)
    assert any("some were lost" in fault for fault in found.faults)
    assert found.notes == ()


def test_what_is_no_ledger_is_refused(tmp_path) -> None:
    for verb in (Ledger.open, verify_ledger, repair_ledger):
        with pytest.raises(LedgerError, match="is not a ledger: make one with"):
            verb(tmp_path)
    (tmp_path / "something").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        ledger(tmp_path)


def test_unknown_kinds_of_entries_are_named(book) -> None:
    """A later version wrote one."""
    write_plainly(book, lambda bodies: bodies.append({**bodies[-1], "op": "celebrate", "seq": len(bodies)}))
    assert any(
        "is an entry of a kind that this library does not know" in fault for fault in verify_ledger(book.folder).faults
    )
    with pytest.raises(
        LedgerError,
        match=r"line 5 of entries.jsonl \(celebrate\) is an entry of a kind that this library does not know",
    ):
        Ledger.open(book.folder)
