"""Entries that somebody rewrote, hashes and all: named in one line by whatever reads them, and never folded."""

import re
from shutil import copytree

import pytest
from typer.testing import CliRunner

from tests.ledger.desk import ask, errors, ledger, model, write_plainly, write_sealed
from unconcept.cli import app
from unconcept.core.errors import LedgerError
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.ledger.verify import verify_ledger

RUN = CliRunner()


@pytest.fixture(scope="module")
def written_book(tmp_path_factory) -> Ledger:
    """init, add, add, revoke, materialize."""
    place = tmp_path_factory.mktemp("written")
    made = ledger(place / "l")
    first = ask(made, 1)
    ask(made, 2)
    revoke_request(made, first.id, EntryNote())
    materialize_ledger(made, model(), place / "out", False, False, EntryNote())
    return made


@pytest.fixture
def book(written_book, tmp_path) -> Ledger:
    """A copy that the test may change."""
    return Ledger.open(copytree(written_book.folder, tmp_path / "l"))


WRONG = {
    "no verb": (lambda b: b[1].pop("op"), "line 2 of entries.jsonl is not an entry"),
    "no time": (lambda b: b[1].pop("at"), "line 2 of entries.jsonl is not an entry"),
    "a time that is a number": (lambda b: b[-1].update(at=5), "line 5 of entries.jsonl is not an entry"),
    "no place": (lambda b: b[2].pop("seq"), "line 3 of entries.jsonl is not an entry"),
    "no table": (lambda b: b.__setitem__(2, [1, 2]), "line 3 of entries.jsonl is not an entry"),
    "an unknown verb": (
        lambda b: b[1].update(op="celebrate"),
        r"line 2 of entries.jsonl \(celebrate\) is an entry of a kind that this library does not know",
    ),
    "begun twice": (lambda b: b[1].update(b[0], seq=1), "a ledger has exactly one init entry, and it comes first"),
    "no id": (
        lambda b: b[1].pop("id"),
        r"line 2 of entries.jsonl \(add\) has a form that this library does not know, see its id",
    ),
    "no request": (lambda b: b[1].pop("asked"), "see its asked"),
    "targets that are numbers": (lambda b: b[1]["asked"].update(targets=[1]), "see its asked"),
    "more in a request": (lambda b: b[1]["asked"].update(more=1), "see its asked"),
    "no policy": (lambda b: b[0].pop("policy"), "see its policy"),
    "what was trained is a text": (lambda b: b[4].update(trained="x"), "see its trained"),
    "revoked what was never added": (
        lambda b: b[3].update(id="f" * 64),
        "entry 3 revokes a request that was never added",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_form_that_cannot_be_is_one_line(book, name) -> None:
    change, said = WRONG[name]
    write_plainly(book, change)
    before = (book.folder / ENTRIES_FILE).read_bytes()
    found = verify_ledger(book.folder)
    assert found.faults
    assert not any("belong to no entry" in note for note in found.notes), "their artifacts are not strays"
    for words in (
        ["status"],
        ["revoke", "f0"],
        ["repair"],
        ["drift"],
        ["materialize", "--out", str(book.folder.parent / "other")],
    ):
        result = RUN.invoke(app, ["ledger", words[0], str(book.folder), *words[1:]])
        assert (result.exit_code, errors(result)) == (2, 1), (words, result.output, result.exception)
    with pytest.raises(LedgerError, match=said):
        type(book).open(book.folder)
    assert (book.folder / ENTRIES_FILE).read_bytes() == before


SEALED_WRONG = {
    "no commitment": (
        lambda b, d: (b[1].update(sealed={}), d[1].clear()),
        r"line 2 .* \(add\) has no commitment to its what, who",
    ),
    "a later format": (lambda b, _: b[1].update(format=3), "line 2 of entries.jsonl is not an entry"),
    "an ask that is a text": (lambda b, _: b[3].update(ask="1"), r"\(revoke\) has a form .*, see its ask"),
    "withdraws what is no ask": (lambda b, _: b[3].update(ask=0), "names entry 0, which is not an ask"),
    "withdraws what is to come": (lambda b, _: b[3].update(ask=9), "names entry 9, which is not an ask"),
    "no id": (lambda b, d: d[1]["what"].pop("id"), r"\(add\) has a form .*, see its id"),
    "targets that are numbers": (lambda b, d: d[1]["what"]["asked"].update(targets=[1]), "see its asked"),
    "a part that is gone": (lambda b, d: d[1].pop("what"), r"entry 1 \(add\): its part 'what' is missing"),
}


@pytest.mark.parametrize("name", list(SEALED_WRONG))
def test_a_sealed_form_that_cannot_be_is_one_line(book, name) -> None:
    change, said = SEALED_WRONG[name]
    write_sealed(book, change)
    assert any(re.search(said, fault) for fault in verify_ledger(book.folder).faults), verify_ledger(book.folder).faults
    with pytest.raises(LedgerError, match=said):
        type(book).open(book.folder)


def test_another_policy_is_named(book) -> None:
    write_plainly(book, lambda bodies: bodies[0]["policy"].update(rule="guess"))
    assert any(
        "policy rule = 'guess': input should be 'recompute'" in fault for fault in verify_ledger(book.folder).faults
    )
    assert RUN.invoke(app, ["ledger", "status", str(book.folder)]).exit_code == 2


def test_what_nobody_asked_is_neither_told_of_nor_shipped(book) -> None:
    """Every verb that reads the ledger names the entry whose id is not the hash of what it asks."""
    write_plainly(book, lambda bodies: bodies[2]["asked"].update(concepts=["something else"]))
    before, out = (book.folder / ENTRIES_FILE).read_bytes(), book.folder.parent / "other"
    asks = ["add", "moon", "--anchor", "sun"]
    for verb, *words in (
        asks,
        ["revoke", book.request_states.active[0].id],
        ["status"],
        ["drift"],
        ["materialize", "--out", str(out)],
        ["audit"],
        ["repair"],
    ):
        result = RUN.invoke(app, ["ledger", verb, str(book.folder), *words])
        assert (result.exit_code, errors(result)) == (2, 1), (verb, result.output, result.exception)
        assert re.search(r"entry 2 \(add\): its id( [0-9a-f]{8})? is not the hash of its request", result.stderr), (
            verb,
            result.stderr,
        )
    assert ((book.folder / ENTRIES_FILE).read_bytes(), out.exists()) == (before, False)
