"""The ledger that most tests begin with."""

import pytest

from tests.ledger.desk import ask, ledger
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.operations import revoke_request


@pytest.fixture
def book(tmp_path) -> Ledger:
    made = ledger(tmp_path / "l")
    first = ask(made, 1)
    ask(made, 2)
    revoke_request(made, first.id, EntryNote("someone", "settled"))
    return made
