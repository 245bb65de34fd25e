"""Several who ask for the same: a request is in force while any of them does, and none is lost."""

import json
from itertools import permutations

import pytest

from tests.fast_cases import fast_ends
from tests.ledger.desk import ledger, model, request
from unconcept.core.errors import LedgerError, SettingsError
from unconcept.ledger.drift_history import drift_history
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import AddOutcome, add_request, revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.status import ledger_status
from unconcept.ledger.verify import verify_ledger


def ask_as(book: Ledger, name: str, number: int = 1) -> AddOutcome:
    asked = request(number)
    note = EntryNote(name, f"letter of {name}", "clerk")
    return add_request(book, model(), asked.targets[:1], asked, "uce", None, note)


def names(book: Ledger) -> list[str]:
    (one,) = ledger_status(Ledger.open(book.folder))["requests"]
    return one["asked_by"]


def test_a_second_requester_is_never_lost(tmp_path) -> None:
    """A's withdrawal leaves the request in force for B; B's takes it out of force."""
    book = ledger(tmp_path / "l")
    first, second = ask_as(book, "Ada"), ask_as(book, "Bo")
    assert (first.came, second.came, second.asks, first.id) == ("added", "in force", 2, second.id)
    assert names(book) == ["Ada", "Bo"]
    assert revoke_request(book, first.id, EntryNote(recorded_by="clerk"), by="Ada").state == "active"
    assert names(book) == ["Bo"]
    assert revoke_request(book, first.id, EntryNote(recorded_by="clerk")).state == "revoked"
    assert verify_ledger(book.folder, model()).faults == ()
    assert ask_as(book, "Ada").came == "in force again"


def test_which_ask_is_meant_is_never_guessed(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    (id_,) = {ask_as(book, name).id for name in ("Ada", "Bo", "Ada")}
    before = len(book.entry_log.chain)
    for more, said in (
        ({}, r"has 3 asks in force: entry 1 by Ada at .*; entry 2 by Bo .*; --by NAME takes back"),
        ({"by": "Cy"}, r"was not asked for by 'Cy', but in entry 1 by Ada"),
    ):
        with pytest.raises(LedgerError, match=said):
            revoke_request(book, id_, EntryNote(), **more)
    with pytest.raises(SettingsError, match="--by picks one requester and --all takes all"):
        revoke_request(book, id_, EntryNote(), by="Ada", every=True)
    assert len(book.entry_log.chain) == before
    assert [ask.entry for ask in revoke_request(book, id_, EntryNote(), by="Ada").standing] == [2]
    ask_as(book, "Cy")
    assert revoke_request(book, id_, EntryNote(), every=True).state == "revoked"
    with pytest.raises(LedgerError, match="there is nothing to revoke"):
        revoke_request(book, id_, EntryNote(), every=True)


@pytest.mark.parametrize("order", fast_ends(permutations(range(3))))
def test_the_state_is_a_function_of_the_set_in_force(order, tmp_path) -> None:
    """Whoever asks, in whatever order, and however many withdraw."""
    book, plain = ledger(tmp_path / "l"), ledger(tmp_path / "m")
    asks = [("Ada", 1), ("Bo", 1), ("Cy", 2)]
    for which in order:
        ask_as(book, *asks[which])
    ask_as(plain, "Dee", 1)
    ask_as(plain, "Dee", 2)
    wanted = fold_requests(plain, model()).hash
    assert fold_requests(book, model()).hash == wanted
    revoke_request(book, ask_as(book, "Eve").id, EntryNote(), by="Ada")
    assert fold_requests(Ledger.open(book.folder), model()).hash == wanted
    assert len(drift_history(book, model())) == 2, "asking again is no change of the state"


def test_a_sequence_records_every_ask(tmp_path) -> None:
    book = ledger(tmp_path / "l", "uce", LedgerPolicy("sequential"))
    ask_as(book, "Ada", 1)
    ask_as(book, "Bo", 2)
    before = fold_requests(book, model()).hash
    assert ask_as(book, "Cy", 1).asks == 2
    assert fold_requests(Ledger.open(book.folder), model()).hash == before
    assert verify_ledger(book.folder, model()).faults == ()


def test_what_ships_names_nobody(tmp_path) -> None:
    """The card says how many ask for a request; no file of a release holds a requester, a reason or a path."""
    book = ledger(tmp_path / "l")
    for name in ("Ada", "Bo"):
        ask_as(book, name)
    card = materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote("clerk", "release 3"))
    assert card["requests"][0]["asks_in_force"] == 2
    assert json.loads((tmp_path / "out/card.json").read_text()) == card
    for path in (tmp_path / "out").rglob("*"):
        data = path.read_bytes()
        for word in ("Ada", "Bo", "letter of", "clerk", "release 3", str(tmp_path)):
            assert word.encode() not in data, (path.name, word)
