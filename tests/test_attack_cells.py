"""Cells of attacks are kept and make the page; what was measured on anything else is left out, with one line."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import attacks
from benchmarks.attack_budgets import budgets
from benchmarks.attack_cells import SUITE, Cell, asked_checks, asked_hash, cell_of, keep_cells, kept_cells
from benchmarks.attack_runs import AttackWork, _of_kept, run
from benchmarks.attack_sections import Section, pooled
from benchmarks.attacked_edits import ledger_edits, method_edits
from benchmarks.attacks_page import detectable_sentence, page, section
from unconcept.evaluation.attacks.rates import AttackRow, ControlRate
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.metrics.intervals import clopper_pearson, clustered_share
from unconcept.metrics.paired_tests import detectable_change
from unconcept.report.data_types import RateData
from unconcept.report.ladder_data import LadderBudget, RungData

BASIS = {
    "models": ["moji@2"],
    "judge": ["moji-judge", 2, "f"],
    "drawing": {"steps": 20, "guidance_scale": 4.0},
    "table": "t",
}
NAMES = ("bread", "flat", "hammer")
RUNGS = ("detach", "wordings", "unlearn-diff-atk")
PART = Section("Eight", "moji", ("uce", "speed"), NAMES, RUNGS, True, True)


def budget(queries: float, steps: int) -> LadderBudget:
    return LadderBudget(queries=queries, steps=steps, pictures=0, seconds=2.0)


def planted(label: str, rung: str, concept: str, hits: int, needed: LadderBudget | None = None) -> Cell:
    """A cell of 8 prompts; the first input shows the concept in one."""
    counts = {"pre": (0, 8), "floor": (1, 8), "success": (hits, 8), "ceiling": (8, 8), "nothing": (2, 8)}
    taught = rung == "unlearn-diff-atk"
    return Cell(label, rung, concept, "made", "asked", "", counts, {}, taught, needed, budget(40, 40), 16.0, 30.0)


def whole() -> dict:
    """All cells of the part for UCE: detaching is n/a, wordings bring nothing back, the search does on two concepts."""
    cells = [Cell("uce", "detach", name, "made", "asked", reason="it is baked in") for name in NAMES]
    cells += [planted("uce", "wordings", name, 1) for name in NAMES]
    cells.append(planted("uce", "unlearn-diff-atk", "bread", 8, budget(3, 3)))
    cells.append(planted("uce", "unlearn-diff-atk", "flat", 5, budget(12, 12)))
    cells.append(planted("uce", "unlearn-diff-atk", "hammer", 0))
    return {cell.key: cell for cell in cells}


def test_cells_are_kept_and_read_again(tmp_path: Path) -> None:
    cells = list(whole().values())
    cells[3] = replace(cells[3], controls={"plain picture": (3, 8)})
    keep_cells(cells[:4], BASIS, "moji", tmp_path)
    keep_cells(cells[4:], BASIS, "moji", tmp_path)
    found, stale = kept_cells(BASIS, "moji", tmp_path)
    assert {cell.key: cell for cell in found} == {cell.key: cell for cell in cells}
    assert stale == []
    keep_cells([planted("uce", "wordings", "bread", 7)], BASIS, "moji", tmp_path)
    found, _ = kept_cells(BASIS, "moji", tmp_path)
    assert len(found) == len(cells), "the older cell is replaced"
    assert {cell.counts["success"] for cell in found if cell.key == ("uce", "wordings", "bread")} == {(7, 8)}
    assert kept_cells({**BASIS, "table": "another"}, "moji", tmp_path) == (
        [],
        ["uce: measured on another model, table, judge or sampler"],
    )
    assert kept_cells(BASIS, "moji-flow", tmp_path) == ([], [])


def test_a_cell_holds_what_its_rung_gave() -> None:
    """Hits come back from rates, the attack's own controls too; a rung that is n/a keeps its mechanism alone."""
    made = {name: clopper_pearson(hits, 8) for name, hits in (("pre", 1), ("success", 6), ("floor", 2))}
    row = AttackRow(
        "recall",
        "picture",
        "bread",
        **made,
        ceiling=clopper_pearson(8, 8),
        nothing=None,
        curve=(),
        seconds=9.0,
        missing=0,
        controls=(ControlRate("plain picture", clopper_pearson(3, 8)),),
    )
    data = RungData(name="recall", attack="recall", cost="picture", access="picture", settings={}, reason=None)
    data = data.model_copy(update={"may_teach": True, "needed": budget(2, 2), "spent": budget(9, 9)})
    names, hashes = ("uce", "recall", "bread"), ("m", "a")
    cell = cell_of(names, hashes, data, row, 12.0)
    assert cell.counts == {"pre": (1, 8), "success": (6, 8), "floor": (2, 8), "ceiling": (8, 8)}
    assert cell.controls == {"plain picture": (3, 8)}
    assert (cell.may_teach, cell.needed, cell.seconds) == (True, budget(2, 2), 9.0)
    free = data.model_copy(update={"success": RateData.model_validate(clopper_pearson(7, 8)), "attack": ""})
    assert cell_of(names, hashes, free, None, 0.0).counts == {"success": (7, 8)}
    beyond = cell_of(names, hashes, data.model_copy(update={"reason": "it has no weights"}), None, 0.0)
    assert beyond == Cell(*names, *hashes, reason="it has no weights")


def test_what_a_cell_asks_depends_on_rung_settings_and_prompts() -> None:
    hashes = {asked_hash(rung, "bread", "moji") for rung in ("relearning-1", "relearning-5", "wordings", "detach")}
    assert len(hashes) == 4
    assert asked_hash("wordings", "bread", "moji") != asked_hash("wordings", "flat", "moji")
    assert len(asked_checks("bread")) * 3 >= 24


def test_edits_of_other_settings_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "present_basis", lambda model="moji": BASIS)
    own = method_edits((variant_of_method("uce"), variant_of_method("speed")), NAMES)
    known = {"eight": attacks.Part(PART, own)}
    good = [
        replace(
            planted(edit.label, "wordings", edit.concept, 1),
            made=edit.made,
            asked=asked_hash("wordings", edit.concept, "moji"),
        )
        for edit in own
    ]
    stale = [replace(good[0], made="older"), replace(good[3], rung="gone"), *good[1:3]]
    keep_cells(stale, BASIS, "moji", tmp_path)
    found, told = attacks.current(known, tmp_path)
    assert {cell.concept for cell in found["moji"].values()} == set(NAMES[1:])
    assert told == [f"{label}: 1 cells had other settings, requests or prompts" for label in ("speed", "uce")]
    work = known["eight"].work(list(found["moji"].values()), ["uce"], ["wordings", "detach"])
    assert [(one.edit.concept, one.rungs) for one in work] == [
        ("bread", ("detach", "wordings")),
        ("flat", ("detach",)),
        ("hammer", ("detach",)),
    ]


def test_edits_say_what_they_are_made_with() -> None:
    uce = variant_of_method("uce")
    one, other = (method_edits((variant,), ("bread",))[0] for variant in (uce, uce.changed("uce", {"lamb": 3.0})))
    assert one.made != other.made
    state = ledger_edits(NAMES)
    assert len({edit.made for edit in state}) == 1, "one state of a ledger, attacked on each concept"
    assert state[0].made != ledger_edits(NAMES[:2])[0].made


def test_rungs_of_one_cost_run_together() -> None:
    work = AttackWork(ledger_edits(NAMES)[0], ("relearning-5", "wordings", "p4d", "unlearn-diff-atk"), "moji")
    assert work.batches == [("wordings",), ("p4d", "unlearn-diff-atk"), ("relearning-5",)]
    assert _of_kept(list(whole().values())) == {"wordings": 30.0, "unlearn-diff-atk": 30.0}


def test_rates_have_intervals_over_concepts() -> None:
    cells = [cell for key, cell in whole().items() if key[1] == "unlearn-diff-atk"]
    rate = pooled(cells, "success")
    hits = [True] * 13 + [False] * 11
    clusters = ["bread"] * 8 + ["flat"] * 5 + ["flat"] * 3 + ["hammer"] * 8
    assert (rate.value, rate.clusters) == (13 / 24, 3)
    assert (rate.low, rate.high) == pytest.approx(
        (clustered_share(hits, clusters).low, clustered_share(hits, clusters).high)
    )
    independent = clopper_pearson(13, 24)
    assert rate.high - rate.low > independent.high - independent.low


def test_the_page_says_what_was_found_and_what_is_missing() -> None:
    text = page(BASIS, [PART], {"moji": whole()}, ["rece: measured on another model"])
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "- rece: measured on another model\n" in text
    assert "Not whole yet: speed (0 of 9 cells)." in text
    rate = pooled([cell for key, cell in whole().items() if key[1] == "unlearn-diff-atk"], "success")
    search = next(line for line in text.splitlines() if line.startswith("| unlearn-diff-atk | text † | 100.0%"))
    assert search.endswith(f"| {rate} (floor 12%, nothing 25%) |"), "no column for an edit that was not measured"
    partly = {key: cell for key, cell in whole().items() if key != ("uce", "wordings", "flat")}
    assert "| wordings | text | not measured yet | not measured yet (2 of 3) |" in section(PART, partly)
    assert rows["detach"].count("n/a") == 1
    assert "- detach on uce, bread; detach on uce, flat; detach on uce, hammer: it is baked in\n" in text
    assert "may teach, not recall" in text
    assert detectable_sentence(8, 3) in text
    assert f"{100 * detectable_change(24):.0f} points; a test over 3 concepts finds none" in detectable_sentence(8, 3)
    assert "best" not in text.replace("No row is the best.", "")


def test_the_ladder_shows_the_least_budget() -> None:
    text = budgets(PART, whole())
    assert "| unlearn-diff-atk | text † | 2 of 3 | 3 to 12 | 3 to 12 | 0 | 2 |" in text
    assert "| wordings | text | 0 of 3 | > 40 | > 40 |  | > 2 |" in text.replace("> 0", "")
    assert "- uce: bread: unlearn-diff-atk, flat: unlearn-diff-atk, hammer: none\n" in text


def test_nothing_measured_is_said_in_one_line() -> None:
    assert section(PART, {}) == "Not measured yet.\n"


@pytest.mark.slow
def test_a_run_keeps_each_cell_and_goes_on_where_time_cut_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UCE's edit of bread, two prompts: once without time, then to the end."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    few = {SUITE: suites[SUITE].with_limit(2, 0)}
    monkeypatch.setattr("unconcept.evaluation.suites.registry.suites", few)
    edit = method_edits((variant_of_method("uce"),), ("bread",))[0]
    part = attacks.Part(replace(PART, concepts=("bread",), rungs=("detach", "wordings")), (edit,))
    with pytest.raises(SystemExit):
        run(part.work([], None, None), 0, tmp_path / "out", tmp_path / "kept")
    assert attacks.current({"eight": part}, tmp_path / "kept") == ({"moji": {}}, [])
    run(part.work([], None, None), None, tmp_path / "out", tmp_path / "kept")
    found, _ = attacks.current({"eight": part}, tmp_path / "kept")
    assert {key[1] for key in found["moji"]} == {"detach", "wordings"}
    assert found["moji"]["uce", "wordings", "bread"].counts["ceiling"][1] == 2
    assert part.work(list(found["moji"].values()), None, None) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--attacks", "none"], "no attack 'none'"), (["--methods", "none"], "no row 'none'")],
)
def test_unknown_names_are_refused(words, message, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["attacks", *words])
    with pytest.raises(SystemExit) as ended:
        attacks.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
