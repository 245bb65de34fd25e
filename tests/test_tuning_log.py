"""The log of tunings: what a report's rows become, what replaces what, and which row the page says is chosen."""

import json

import pytest

from benchmarks import kept, tuning_log
from unconcept.core.errors import RequestError
from unconcept.core.recipe import load_recipe
from unconcept.core.settings import build_settings, settings_data
from unconcept.methods import methods

RECIPE = load_recipe("moji-uce")


def settings(kind: str = "object", **changed: object) -> dict:
    return settings_data(build_settings(methods["uce"].settings, {**RECIPE.settings_for(kind), **changed}))


def trial(concept: str, kind: str, own: dict, hits: int = 3, answered: int = 10) -> dict:
    rate = {"n": 12}
    return {
        "concepts": [concept],
        "edit": {"method": "uce", "base": "moji@2", "kind": kind, "settings": own},
        "cost": {"seconds": 0.25},
        "asked": 10,
        "answered": answered,
        "groups": {
            "direct": {
                "before": {**rate, "value": 11 / 12},
                "after": {**rate, "value": hits / 12},
                "nothing": {**rate, "value": 1 / 12},
            }
        },
        "figures": [
            {"name": "variety kept@moji-judge, far", "value": 0.96},
            {"name": "distance@moji-judge, direct", "value": 0.5},
        ],
    }


def report(*trials: dict, **changed: object) -> dict:
    basis = kept.present_basis()
    judge = dict(zip(("name", "version", "hash"), basis["judge"], strict=True))
    head = {"suite": "tuning", "judge": judge, "table_hash": basis["table"], "drawing": basis["drawing"]}
    return {**head, "trials": list(trials), **changed}


def test_a_row_a_candidate_and_the_present_one_in_bold(tmp_path) -> None:
    own, style = settings(), settings("style")
    other = settings(lamb=7.0)
    assert tuning_log.keep(report(trial("guitar", "object", other), trial("guitar", "object", own)), tmp_path) == [
        "uce"
    ]
    tuning_log.keep(report(trial("twemoji", "style", style), trial("classic", "style", other, hits=0)), tmp_path)
    page = tuning_log.page(tmp_path)
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert [row.split(" | ")[0] for row in rows if "unedited" in row] == ["| guitar", "| classic", "| twemoji"]
    assert "| guitar | unedited | 11/12 |" in rows[0]
    assert {row.split("|")[2].strip(): row.split("|")[3].strip() for row in rows[1:3]} == {
        "lamb 7.0, tokens last": "3/12",
        "**lamb 0.5, tokens last**": "3/12",
    }
    assert "| 1/12 | 0.96 |  | 0.2 |" in rows[1]
    assert "0/12" in next(row for row in rows if "lamb 7.0, tokens last" in row and row != rows[1] and row != rows[2])
    assert sum("**" in row for row in rows) == 2
    assert RECIPE.source in page


def test_measured_again_replaces_and_another_world_goes(tmp_path) -> None:
    first = report(trial("guitar", "object", settings()), trial("horse face", "object", settings()))
    tuning_log.keep(first, tmp_path)
    tuning_log.keep(report(trial("guitar", "object", settings(), hits=5)), tmp_path)
    head, rows = kept.read_rows(tmp_path / "uce.json")
    assert head == kept.present_basis()
    assert [(row["concepts"], row["groups"]["direct"]) for row in rows] == [
        (["guitar"], [12, 11, 5, 1]),
        (["horse face"], [12, 11, 3, 1]),
    ]
    tuning_log.keep(report(trial("guitar", "object", settings()), table_hash="another"), tmp_path)
    assert len(kept.read_rows(tmp_path / "uce.json")[1]) == 1
    page = tuning_log.page(tmp_path)
    assert "## uce" not in page
    assert "Left out, because measured on another model, table or judge: uce." in page


def test_what_is_not_whole_or_not_of_tune_concepts_is_not_kept(tmp_path) -> None:
    assert not tuning_log.keep(report(trial("guitar", "object", settings(), answered=9)), tmp_path)
    with pytest.raises(RequestError, match="settings are chosen on tune concepts alone"):
        tuning_log.keep(report(trial("pizza", "object", settings())), tmp_path)
    with pytest.raises(SystemExit, match="suite 'results'"):
        tuning_log.keep(report(suite="results"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_has_a_row_a_line(tmp_path) -> None:
    path = tmp_path / "x.json"
    kept.write_rows(path, {"table": "t"}, [{"a": 1}, {"a": "two\u2028"}])
    assert path.read_text().splitlines() == [
        "{",
        '"table": "t",',
        '"rows": [',
        '{"a": 1},',
        '{"a": "two\\u2028"}',
        "]",
        "}",
    ]
    assert kept.read_rows(path) == ({"table": "t"}, json.loads(path.read_text())["rows"])
    assert kept.read_rows(tmp_path / "y.json") == ({}, [])


def test_rows_of_another_embedded_model_have_a_folder_and_a_page_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning_log, "FOLDER", tmp_path)
    folder = tuning_log.folder_of("moji-flow")
    assert tuning_log.folder_of("moji") == tmp_path / tuning_log.KEPT.name
    assert folder == tmp_path / "tuning-moji-flow"
    drawn = trial("guitar", "object", settings(lamb=7.0))
    drawn["edit"]["base"] = "moji-flow@1"
    basis = kept.present_basis("moji-flow")
    tuning_log.keep(report(drawn, drawing=basis["drawing"]), folder)
    assert "| guitar | unedited | 11/12 |" in tuning_log.page(folder, "moji-flow")
    assert "Left out" in tuning_log.page(folder)
    tuning_log.write_page(tmp_path, "moji-flow")
    assert "Recipes of `moji-flow`" in (tmp_path / "tuning-moji-flow.md").read_text(encoding="utf-8")
