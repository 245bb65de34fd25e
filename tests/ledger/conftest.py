"""The ledger that most tests begin with."""

import pytest

from tests.ledger.desk import ask, ledger
from unconcept.ledger.ledger import Ledger, Note
from unconcept.ledger.operations import revoke


@pytest.fixture
def book(tmp_path) -> Ledger:
    made = ledger(tmp_path / "l")
    first = ask(made, 1)
    ask(made, 2)
    revoke(made, first.id, Note("someone", "settled"))
    return made
