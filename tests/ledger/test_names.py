"""Names of requesters, reasons and concepts are text wherever a ledger prints or writes them."""

import html
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.ledger.desk import ledger, model
from unconcept.cli import app
from unconcept.core import Request
from unconcept.core.errors import LedgerError
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import add_request, revoke_request
from unconcept.ledger.page import write_ledger_page
from unconcept.ledger.status import ledger_status

RUN = CliRunner()
TARGET, ANCHOR, RETAINED = "[/b]\x1b[31m <s>", "<script>$(x)", "\u202e`id`\x9b &"  # few tokens fit
HOSTILE = "[/b] [red]x <script>alert(1)</script> $(touch x) `id` \x1b[31m\x07 \x9b2J \u202e & \"'|"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Ledger:
    """Hostile texts as concept, anchor, retained text, requester, reason and clerk; one of two is withdrawn."""
    book = ledger(tmp_path_factory.mktemp("names") / "l")
    note, ids = EntryNote(HOSTILE, HOSTILE, HOSTILE), []
    for number in range(2):
        asked = Request((f"{TARGET} {number}",), (ANCHOR,), (RETAINED,))
        ids.append(add_request(book, model(), asked.targets, asked, "uce", None, note).id)
    revoke_request(book, ids[0], note)
    return book


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["verify", "--bytes-only"], ["revoke", "f0"]])
def test_a_terminal_shows_names_and_obeys_none(words, hostile) -> None:
    result = RUN.invoke(app, ["ledger", words[0], str(hostile.folder), *words[1:]])
    assert result.exit_code == (2 if words[0] == "revoke" else 0), result.output
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    if words == ["status"]:
        assert "[/b]" in result.stdout
        assert "\\x1b" in result.stdout
    if "--json" in words:
        assert json.loads(result.stdout)["requests"][0]["asks"][0]["by"] == HOSTILE


def test_a_page_shows_names_and_runs_none(hostile, tmp_path) -> None:
    write_ledger_page(hostile, ledger_status(hostile), model(), tmp_path / "page.html", False)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "[red]x <script>alert(1)</script>" in html.unescape(page)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)


def test_a_card_shows_names_and_holds_no_control_character(hostile, tmp_path) -> None:
    card = materialize_ledger(hostile, model(), tmp_path / "out", False, False, EntryNote())
    text = (tmp_path / "out/card.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(card))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_half_a_character_is_one_line_and_changes_nothing(book) -> None:
    before = {path: path.read_bytes() for path in book.folder.rglob("*") if path.is_file()}
    with pytest.raises(LedgerError, match="is half of a character, which UTF-8 cannot hold"):
        revoke_request(book, book.request_states.active[0].id, EntryNote(because="\udcff"))
    assert {path: path.read_bytes() for path in book.folder.rglob("*") if path.is_file()} == before


def test_no_line_to_copy_holds_a_name(tmp_path) -> None:
    """A folder is a name too: messages name it as text, never within a command."""
    folder = Path("/nowhere/$(touch x)")
    result = RUN.invoke(app, ["ledger", "status", str(folder)])
    assert not re.search(r"`[^`]*\$\(touch", result.output)
