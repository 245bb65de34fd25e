"""Two spellings that the model reads alike are one request; entries keep each as it was typed."""

import unicodedata
from itertools import permutations

import pytest

from tests.fast_cases import fast_ends
from tests.ledger.desk import ask, ledger, model
from unconcept.core import Request
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.forget import forget_ask
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.operations import AddOutcome, add_request, revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.status import ledger_status
from unconcept.ledger.verify import verify_ledger

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zoé Quill") for form in ("NFC", "NFD"))
SPELLINGS = (COMPOSED, DECOMPOSED, "  zoé   quill")


def ask_for(book: Ledger, name: str, by: str = "") -> AddOutcome:
    asked = Request((name,), ("person",), ("sea",))
    return add_request(book, model(), asked.targets, asked, "uce", None, EntryNote(by))


@pytest.mark.parametrize("order", fast_ends(permutations(SPELLINGS)))
def test_whatever_was_typed_first_the_state_is_the_same(order, tmp_path) -> None:
    """Of the spellings that are asked for, the one with the smallest id counts."""
    book, plain = ledger(tmp_path / "l"), ledger(tmp_path / "m")
    came = [ask_for(book, name) for name in order]
    assert [one.came for one in came] == ["added", "in force", "in force"]
    assert came[-1].asks == 3
    (one,) = ledger_status(book)["requests"]
    assert sorted(each["concepts"][0] for each in one["asks"]) == sorted(SPELLINGS), "as typed"
    alone = {name: ask_for(ledger(tmp_path / str(i)), name).id for i, name in enumerate(SPELLINGS)}
    smallest = min(SPELLINGS, key=alone.__getitem__)
    ask_for(plain, smallest)
    assert fold_requests(Ledger.open(book.folder), model()).hash == fold_requests(plain, model()).hash
    assert one["id"] == alone[smallest]
    assert verify_ledger(book.folder, model()).faults == ()


def test_each_spelling_is_withdrawn_and_forgotten_alone(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    for name, by in ((COMPOSED, "Ada"), (DECOMPOSED, "Bo"), (COMPOSED, "Cy")):
        ask_for(book, name, by)
    first, second = (book.entry_log.bodies[entry]["id"] for entry in (1, 2))
    assert first != second
    for entry, by in ((1, "Ada"), (3, "Cy")):
        left = revoke_request(book, first[:12], EntryNote(), by=by)
        forget_ask(book, entry, EntryNote())
    assert (left.state, left.id, left.content.concepts) == ("active", second, (DECOMPOSED,))
    assert not [path for path in book.folder.rglob("*") if path.is_file() and first.encode() in path.read_bytes()]
    again = ask_for(Ledger.open(book.folder), "ZOÉ QUILL")
    assert (again.came, again.asks) == ("in force", 2)
    assert verify_ledger(book.folder, model()).faults == ()


def test_a_sequence_counts_spellings_as_one(tmp_path) -> None:
    book = ledger(tmp_path / "l", "uce", LedgerPolicy("sequential"))
    ask_for(book, COMPOSED)
    before = fold_requests(book, model()).edit
    ask(book, 2)
    after = fold_requests(book, model()).edit.hash
    assert ask_for(book, DECOMPOSED).came == "in force"
    assert fold_requests(Ledger.open(book.folder), model()).edit.hash == after != before.hash


def test_other_anchors_or_retained_texts_are_another_request(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    ask_for(book, COMPOSED)
    for asked in (Request((DECOMPOSED,), ("art",), ("sea",)), Request((DECOMPOSED,), ("person",), ("sea", "fox"))):
        assert add_request(book, model(), asked.targets, asked, "uce", None, EntryNote()).came == "added"
    assert len(book.request_states.by_id) == 3
