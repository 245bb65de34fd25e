"""Damage that the ledger's own files cannot show, and what `repair` may take away."""

import json

import pytest
from typer.testing import CliRunner

from tests.ledger.desk import ask, model
from unconcept.cli import app
from unconcept.core.errors import LedgerError
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.storage.entry_log import ENTRIES_FILE, HEAD_FILE
from unconcept.ledger.storage.heads import current_head, read_card_head, read_heads
from unconcept.ledger.storage.private_file import PRIVATE_FILE
from unconcept.ledger.verify import verify_ledger

RUN = CliRunner()


@pytest.fixture
def written(book, tmp_path):
    """A ledger, and its head as it was written down by hand and in a card; then two more entries."""
    materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    (tmp_path / "heads.txt").write_text(f"# by hand\n2 requests, edit 12 -> out\n{current_head(book.entry_log)}\n")
    for number in (5, 6):
        ask(book, number)
    return book, tmp_path / "heads.txt", tmp_path / "out/card.json"


def roll_back(book, lines: int) -> None:
    """Take the last lines out of every file, as somebody would who has read this code."""
    chain = (book.folder / ENTRIES_FILE).read_bytes().splitlines(keepends=True)[:-lines]
    private = (book.folder / PRIVATE_FILE).read_bytes().splitlines(keepends=True)[:-lines]
    (book.folder / ENTRIES_FILE).write_bytes(b"".join(chain))
    (book.folder / PRIVATE_FILE).write_bytes(b"".join(private))
    (book.folder / HEAD_FILE).unlink()
    named = {name for body in book.entry_log.bodies[:-lines] for name in body.get("artifacts", ())}
    for path in (book.folder / "artifacts").iterdir():
        if path.stem not in named:
            path.unlink()
    repair_ledger(book.folder)


@pytest.mark.parametrize("source", ["--head", "--card"])
@pytest.mark.parametrize(("lines", "exit_code", "said"), [(0, 0, ""), (2, 0, ""), (3, 1, "it was rolled back")])
def test_a_rollback_shows_by_a_head_that_was_written_down(written, source, lines, exit_code, said) -> None:
    """Without one, the files of an earlier day are sound."""
    book, heads, card = written
    if lines:
        roll_back(book, lines)
    assert verify_ledger(book.folder).faults == ()
    path = heads if source == "--head" else card
    result = RUN.invoke(app, ["ledger", "verify", str(book.folder), "--bytes-only", source, str(path)])
    assert (result.exit_code, said in result.stderr) == (exit_code, True), result.output


def test_a_rewritten_ledger_shows_too(written) -> None:
    book, heads, card = written
    roll_back(book, 4)
    again = Ledger.open(book.folder)
    for number in (11, 12, 13):
        ask(again, number)
    for head in (*read_heads(heads), read_card_head(card)):
        (fault,) = verify_ledger(book.folder, None, [head]).faults
        assert "entry 4 is not the one that was written down: it was rewritten" in fault


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (lambda path: list(read_heads(path)), "", "holds no head"),
        (lambda path: list(read_heads(path)), "Head of the department", "holds no head"),
        (lambda path: list(read_heads(path)), "3 abc", "'3 abc' is no head: write `head NUMBER HASH`"),
        (lambda path: list(read_heads(path)), "head 3", "'head 3' is no head: write `head NUMBER HASH`"),
        (lambda path: list(read_heads(path)), f"head 0 {'a' * 64}", "is no head"),
        (read_card_head, "{}", "is no card of a ledger"),
        (read_card_head, "[" * 9999, "is no card of a ledger"),
        (read_card_head, json.dumps({"ledger": {"entries": "3", "head": 4}}), "is no card of a ledger"),
    ],
)
def test_what_is_no_head_is_one_line(read, text, said, tmp_path) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(LedgerError, match=said):
        read(tmp_path / "file")


def test_a_file_that_is_not_there_is_one_line(tmp_path) -> None:
    for read in (lambda path: list(read_heads(path)), read_card_head):
        with pytest.raises(LedgerError, match=r"is no file: give one|is no card of a ledger"):
            read(tmp_path / "nowhere")


def test_status_and_materialize_print_the_head(book) -> None:
    line = str(current_head(book.entry_log))
    assert line in RUN.invoke(app, ["ledger", "status", str(book.folder)]).stdout.splitlines()


@pytest.mark.parametrize("last", ["add", "revoke"])
def test_an_acknowledged_entry_never_vanishes(book, last) -> None:
    """Its line and the head are gone: what proves it is damage, and nothing is deleted."""
    if last == "add":
        ask(book, 5)
    else:
        revoke_request(book, book.request_states.active[0].id, EntryNote())
    path = book.folder / ENTRIES_FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    (book.folder / HEAD_FILE).unlink()
    before = {path: path.read_bytes() for path in book.folder.rglob("*") if path.is_file()}
    assert any("belong to no entry, and head.json" in fault for fault in verify_ledger(book.folder).faults)
    with pytest.raises(LedgerError, match="entries were lost: this is not a torn last line, and cannot be repaired"):
        repair_ledger(book.folder)
    assert {path: path.read_bytes() for path in book.folder.rglob("*") if path.is_file()} == before


def test_a_head_that_alone_is_missing_is_written_again(book) -> None:
    before = (book.folder / HEAD_FILE).read_bytes()
    (book.folder / HEAD_FILE).unlink()
    assert repair_ledger(book.folder) == ["head.json now counts all 4 entries"]
    assert (book.folder / HEAD_FILE).read_bytes() == before


def test_what_repair_takes_away_is_put_aside_and_named(book) -> None:
    torn, tail, stray = b'{"body":{"at"', b'{"entry":4,', b"half an artifact"
    for name, data in ((ENTRIES_FILE, torn), (PRIVATE_FILE, tail)):
        with (book.folder / name).open("ab") as file:
            file.write(data)
    (book.folder / "artifacts/.123.part").write_bytes(stray)
    done = repair_ledger(book.folder)
    aside = {path.read_bytes(): path for path in (book.folder / "quarantine").iterdir()}
    assert set(aside) == {torn, tail, stray}
    for path in aside.values():
        assert any(f"quarantine/{path.name}" in line for line in done)
    assert (verify_ledger(book.folder).faults, verify_ledger(book.folder).notes) == ((), ())
    assert repair_ledger(book.folder) == []
