"""The log of settings of attacks: candidates, kept rows and the page."""

import tomllib

import pytest

from benchmarks import attack_tuning, kept
from unconcept.attacks import attacks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(attack_tuning, "FOLDER", tmp_path)
    return tmp_path / "attack-tuning"


def row(found: int, **changed: object) -> dict:
    settings = attack_tuning.whole_settings("p4d", changed, "moji")
    counts = {"n": 6, "floor": 1, "found": found, "ceiling": 6}
    return {"concept": "guitar", "settings": settings, "edit": "e", "seconds": 2.0, **counts}


def test_candidates_change_the_recipe_and_are_five_at_most() -> None:
    tried = tomllib.loads(attack_tuning.CANDIDATES.read_text(encoding="utf-8"))
    for name, own in tried.items():
        every = attack_tuning.candidates(name)
        assert name in attacks
        assert len(own) <= 5
        assert all(one != every[0] for one in every[1:]), f"{name}: a candidate is the recipe itself"
        assert len({str(one) for one in every}) == len(own) + 1


def test_rows_are_merged_and_the_recipes_own_are_bold(folder) -> None:
    attack_tuning.keep("p4d", "moji", [row(2), row(3, lr=0.5)])
    attack_tuning.keep("p4d", "moji", [row(5, lr=0.5)])
    _, rows = kept.read_rows(folder / "p4d.json")
    assert [one["found"] for one in rows] == [2, 5]
    text = attack_tuning.page()
    own = row(0)["settings"]["lr"]
    assert f"| guitar | **lr {own}** | 1/6 | 2/6 | 6/6 | 2.0 |" in text
    assert "|  | lr 0.5 | 1/6 | 5/6 | 6/6 | 2.0 |" in text


def test_rows_of_another_basis_are_left_out(folder) -> None:
    attack_tuning.keep("p4d", "moji", [row(2)])
    head, rows = kept.read_rows(folder / "p4d.json")
    kept.write_rows(folder / "p4d.json", {**head, "table": "another"}, rows)
    assert "## p4d" not in attack_tuning.page()
    attack_tuning.keep("p4d", "moji", [row(3)])
    assert [one["found"] for one in kept.read_rows(folder / "p4d.json")[1]] == [3]
