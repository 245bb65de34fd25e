"""The commands that publish tables: cut short they say so, and publish nothing. And the tables."""

import sys
from dataclasses import replace

import pytest

from benchmarks import attacks, crowd, evaluations, measuring, results
from unconcept.erasing.make_edit import make_edit
from unconcept.evaluation.tasks import edit_task
from unconcept.evaluation.tasks.edit_task import EditTask, Variant
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.metrics.intervals import clopper_pearson
from unconcept.prompts.captions import load_captions
from unconcept.report.data import AttackData, ControlData
from unconcept.report.data_types import RateData
from unconcept.report.markdown import VariantRows, attacks_table


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (attacks, ("--methods", "uce", "--attacks", "wordings")),
        (evaluations, ("--methods", "uce", "--suites", "i2p")),
        (results, ("--methods", "uce")),
        pytest.param(crowd, (), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_time_cuts_ends_partial(command, more, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make", *more, "--max-minutes", "0"])
    monkeypatch.setattr(measuring, "estimate", lambda todo: "")  # It draws.
    monkeypatch.setattr(attacks, "estimate", lambda *todo: "")
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert "PARTIAL: " in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def attacked(name: str, hits: int) -> AttackData:
    """One attack on one edit, with four prompts in two seconds."""
    rates = {
        part: RateData.model_validate(clopper_pearson(count, 4))
        for part, count in {"pre": 0, "floor": 1, "success": hits, "ceiling": 4, "nothing": 2}.items()
    }
    return AttackData(attack=name, rung="text", concept="cat", **rates, curve=(), seconds=2.0, missing=0)


def test_attacks_are_pooled_over_concepts() -> None:
    head, _, *rows, _, found = attacks_table(
        [VariantRows("uce", {}, {}, {}, [attacked("p4d", hits) for hits in (2, 3)])]
    ).splitlines()
    assert found.startswith("On 8 prompts a paired test of two of these rates finds a true difference of 80 points")
    assert head == "| attack | rung | ceiling | unattacked | floor | ASR | nothing | seconds a prompt | n |"
    assert rows == ["| p4d | text | 100.0% [63.1%, 100.0%] | 0% | 25% | 62.5% [24.5%, 91.5%] | 50% | 0.5 | 8 |"]


def test_controls_stand_below_with_what_the_floor_has_of_the_successes() -> None:
    """Two edits: a control in 1 and 3 of 4 prompts; the floor in 1 of 4, the attack in 2 and 3 of 4."""
    shown = [(2, clopper_pearson(1, 4)), (3, clopper_pearson(3, 4))]
    rows = [
        attacked("p4d", hits).model_copy(
            update={"controls": (ControlData(name="picture", rate=RateData.model_validate(rate)),)}
        )
        for hits, rate in shown
    ]
    *_, last = attacks_table([VariantRows("uce", {}, {}, {}, rows)]).splitlines()
    assert last == "Beside p4d on uce: picture 50.0% [15.7%, 84.3%]; its floor has 40% of its successes."


def test_of_several_methods_each_has_a_row() -> None:
    variants = [
        VariantRows(label, {}, {}, {}, [attacked("wordings", hits), attacked("p4d", hits)])
        for label, hits in {"uce": 2, "esd": 3}.items()
    ]
    head, _, ceiling, *rows, _, found = attacks_table(variants).splitlines()
    assert found == "On 4 prompts no paired test can tell two of these rates apart."
    assert head == "|  | unattacked | p4d (text) | wordings (text) | seconds a prompt, in all | n |"
    assert ceiling == "| ceiling, unedited |  | 100.0% [39.8%, 100.0%] | 100.0% [39.8%, 100.0%] |  |  |"
    assert rows[1] == "| esd | 0% | 75.0% [19.4%, 99.4%] (25%, 50%) | 75.0% [19.4%, 99.4%] (25%, 50%) | 1 | 4 |"
    assert [row.split()[1] for row in rows] == ["uce", "esd"]


def test_an_attack_that_cannot_act_on_an_edit_is_not_applicable() -> None:
    steered = VariantRows("adavd", {}, {}, {}, [attacked("p4d", 1)], {"derived-embedding": "it changes no map"})
    changed = VariantRows("uce", {}, {}, {}, [attacked("p4d", 2), attacked("derived-embedding", 4)])
    _, _, ceiling, first, second, _, _, _, reason = attacks_table([steered, changed]).splitlines()
    assert [cell.strip() for cell in ceiling.split("|")][4] == "100.0% [39.8%, 100.0%]", "of the first that has one"
    assert [cell.strip() for cell in first.split("|")][4] == "n/a"
    assert "100.0%" in second
    assert reason == "n/a for adavd: it changes no map."
    alone = attacks_table([replace(steered, attacks=())])
    assert "| derived-embedding | embedding | n/a | n/a | n/a | n/a | n/a |" in alone


def test_what_an_arm_retains_comes_after_the_tables_texts(tmp_path) -> None:
    own, *_, more = (EditTask(EditedModel("moji"), arm, ("dog face",), tmp_path) for arm in crowd.settings())
    retained = own.chosen.request.retain
    assert more.chosen.request.retain == (*retained, *load_captions("everyday")[: crowd.CAPTIONS])
    assert own.id != more.id


def test_an_edit_is_made_once_for_all_runs(tmp_path, monkeypatch) -> None:
    store = PictureStore(tmp_path / "store")
    first, second = (
        EditTask(EditedModel("moji"), Variant(label, "uce", {"lamb": 0.5}), ("dog face",), tmp_path / label)
        for label in ("a", "b")
    )
    first.run(store)
    made: list[str] = []
    monkeypatch.setattr(edit_task, "make_edit", lambda *told: made.append("anew") or make_edit(*told))
    second.run(store)
    assert not made
    for suffix in (".safetensors", ".json"):
        assert first.path.with_suffix(suffix).read_bytes() == second.path.with_suffix(suffix).read_bytes()
    monkeypatch.setattr(edit_task, "source_hash", lambda *modules: "of other code")
    second.run(store)
    assert made == ["anew"]
