"""The ledger that most tests begin with."""

from shutil import copytree

import pytest

from tests.ledger.desk import ask, ledger
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.operations import revoke_request


@pytest.fixture(scope="session")
def written_book(tmp_path_factory) -> Ledger:
    """Written once; no test may touch it."""
    made = ledger(tmp_path_factory.mktemp("written") / "l")
    first = ask(made, 1)
    ask(made, 2)
    revoke_request(made, first.id, EntryNote("someone", "settled"))
    return made


@pytest.fixture
def book(written_book, tmp_path) -> Ledger:
    """A copy that the test may change."""
    return Ledger.open(copytree(written_book.folder, tmp_path / "l"))
