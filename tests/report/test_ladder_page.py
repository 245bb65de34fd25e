"""The ladder on pages: the report's and the ledger's say what may teach, what is n/a and what was not enough."""

import re
from pathlib import Path

import pytest

from tests.ledger.desk import ledger, model
from tests.report.test_verdict import rate, trial
from unconcept.core.errors import DataError
from unconcept.ledger.page import write_ledger_page
from unconcept.ledger.status import ledger_status
from unconcept.report.data import DrawingData, ReportData, read_ladders, write_json
from unconcept.report.ladder_data import LadderBudget, LadderData, RungData
from unconcept.report.ladder_svg import ladder_svg
from unconcept.report.page_templates import html_templates


def rung(name: str, hits: int, needed: bool = False, **more: object) -> RungData:
    budget = LadderBudget(queries=3.5, steps=64, pictures=5, seconds=12.5)
    found = {"success": rate(hits, 8), "floor": rate(0, 8), "ceiling": rate(8, 8), "spent": budget}
    known = {"attack": name, "cost": "relearning", "access": "weights", "settings": {}, "reason": None}
    return RungData(name=name, **(known | found | {"needed": budget if needed else None} | more))


LADDER = LadderData(
    concept="kettle",
    prompts=8,
    control=None,
    rungs=(
        rung("detach", 0, success=None, spent=None, reason="no part that <could> be left out"),
        rung("relearning-5", 6, needed=True, may_teach=True),
        rung("relearning-1", 2, may_teach=True),
        rung("merge", 8, needed=True),
    ),
)


def cells(page: str, name: str) -> str:
    """The row of a rung as text."""
    (row,) = re.findall(rf'<tr><th scope="row">{name}<br>.*?</tr>', page, re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", row).split())


def test_the_table_says_what_each_rung_costs_and_what_it_proves() -> None:
    macro = html_templates("unconcept.report").get_template("ladder.html").module.ladder_table
    page = str(macro(LADDER, ladder_svg(LADDER)))
    assert "n/a: no part that &lt;could&gt; be left out" in page
    assert "may teach, not recall" in cells(page, "relearning-5")
    assert cells(page, "relearning-5").endswith("3.5 64 5 12.5")
    assert cells(page, "relearning-1").endswith("&gt; 3.5 &gt; 64 5 &gt; 12.5")
    assert "may teach" not in cells(page, "merge")
    assert "No model that never saw the concept was given" in page
    seen = LADDER.model_copy(update={"control": "twin", "rungs": (rung("relearning-5", 6, True, control=rate(1, 8)),)})
    page = str(macro(seen, ladder_svg(seen)))
    assert "may teach" not in page
    assert "the dotted one on twin" in page
    assert "12.5 %" in cells(page, "relearning-5")


def test_the_ledgers_page_carries_it(tmp_path: Path) -> None:
    book, one = ledger(tmp_path / "l"), trial({}).model_copy(update={"ladder": LADDER})
    write_ledger_page(book, ledger_status(book), model(), tmp_path / "page.html", False, [one])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>The ladder</h2>" in page
    assert "made by uce for kettle" in page
    assert cells(page, "merge").endswith("3.5 64 5 12.5")


def test_a_report_without_a_ladder_is_refused(tmp_path: Path) -> None:
    drawn = DrawingData(steps=1, guidance_scale=1, sampler=None)
    known = {"status": "ok", "failures": (), "missing": 0, "suite": "attack", "drawing": drawn, "judge": None}
    known |= {"measures": (), "table_hash": None, "reasons": {}, "recipe": None}
    path = tmp_path / "report.json"
    with_one = trial({}).model_copy(update={"ladder": LADDER})
    write_json(path, ReportData(**known, trials=(trial({}), with_one)).plain())
    assert [one.ladder for one in read_ladders(path)] == [LADDER]
    write_json(path, ReportData(**known, trials=(trial({}),)).plain())
    with pytest.raises(DataError, match="has no ladder"):
        read_ladders(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="no report of this version"):
        read_ladders(path)
