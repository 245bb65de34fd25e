"""A ledger that version 0.1 wrote is read as it was, and goes on receiving entries."""

import json
import shutil
from pathlib import Path

import pytest

from tests.ledger.desk import WORDS, ask, model, request
from unconcept.core.errors import LedgerError
from unconcept.ledger.entry import request_content
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.forget import forget_ask
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage.entry_log import ENTRIES_FILE, HEAD_FILE
from unconcept.ledger.storage.private_file import PRIVATE_FILE
from unconcept.ledger.verify import verify_ledger

SAVED = Path(__file__).parent / "version_0_1"


@pytest.fixture
def old(tmp_path) -> Ledger:
    """Asked for 1, 2 and 4; 1 revoked and asked again; written out, audited; 2 revoked."""
    shutil.copytree(SAVED, tmp_path / "old")
    return Ledger.open(tmp_path / "old")


def saved_ids() -> dict[str, str]:
    """The ids as the saved lines spell them, by concept."""
    bodies = [json.loads(line)["body"] for line in (SAVED / ENTRIES_FILE).read_text().splitlines()]
    return {body["asked"]["concepts"][0]: body["id"] for body in bodies if body["op"] == "add"}


def test_it_is_read_as_it_was(old) -> None:
    told = ledger_status(old)
    assert {one["concepts"][0]: one["id"] for one in told["requests"]} == saved_ids()
    assert [one["state"] for one in told["requests"]] == ["active", "revoked", "active"]
    assert [len(one["asks"]) for one in told["requests"]] == [2, 1, 1], "each add counts as one ask"
    assert [one["asked_by"] for one in told["requests"]] == [["someone"], [], ["someone"]]
    assert told["requests"][1]["audits"][0]["concepts"]
    assert verify_ledger(old.folder).faults == ()
    assert repair_ledger(old.folder) == []
    assert {path.name for path in old.folder.iterdir()} - {"lock"} == {"artifacts", ENTRIES_FILE, HEAD_FILE}


def test_ids_do_not_change(old) -> None:
    """The same request hashes to the id that version 0.1 gave it."""
    first = old.request_states.active[0]
    number = next(i for i in range(len(WORDS)) if request(i).targets[0] == first.content.concepts[0])
    asked, encoders = request(number), old.first["base"]["encoders"]
    again = request_content(model(), asked.targets[:1], asked, "uce", first.content.settings, encoders)
    assert again.id == first.id


def test_it_goes_on_receiving_entries(old) -> None:
    """Old lines stay as they are, new ones are sealed; the state is the one of a new ledger with the same requests."""
    before, state = (old.folder / ENTRIES_FILE).read_bytes(), fold_requests(old, model()).hash
    came = ask(old, 1)
    assert (came.came, came.asks) == ("in force", 2)
    new = ask(old, 6)
    with pytest.raises(LedgerError, match="has 2 asks in force: entry 4 by someone"):
        revoke_request(old, came.id, EntryNote())
    revoke_request(old, new.id, EntryNote())
    assert (old.folder / ENTRIES_FILE).read_bytes().startswith(before)
    assert json.loads((old.folder / HEAD_FILE).read_bytes())["format"] == 2, "0.1 refuses it in one line"
    again = Ledger.open(old.folder)
    assert fold_requests(again, model()).hash == state
    assert verify_ledger(old.folder, model()).faults == ()
    forget_ask(again, again.request_states.by_id[new.id].asks[0].entry, EntryNote())
    assert new.id.encode() not in (old.folder / PRIVATE_FILE).read_bytes()
    assert verify_ledger(old.folder, model()).faults == ()


def test_an_ask_of_it_can_be_withdrawn_but_not_forgotten(old) -> None:
    first = next(one for one in old.request_states.active if len(one.asks) == 1)
    assert revoke_request(old, first.id, EntryNote()).state == "revoked"
    with pytest.raises(LedgerError, match=r"was written by version 0.1, which chained its text: .* begin a new ledger"):
        forget_ask(old, first.asks[0].entry, EntryNote())
