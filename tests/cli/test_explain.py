"""`unconcept explain`: what a recipe comes to, and who gave each value."""

import json
from dataclasses import fields

import pytest

from tests import tiny
from tests.cli.test_cli import run
from unconcept.attacks import attacks
from unconcept.core.docstrings import field_descriptions
from unconcept.core.recipe import load_recipe, recipes
from unconcept.methods import methods
from unconcept.methods.uce import UCE
from unconcept.protection import protections


def explained(*words: object) -> dict[tuple[str, str], dict]:
    result = run("explain", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return {(row["part"], row["name"]): row for row in json.loads(result.stdout)["rows"]}


def test_each_value_says_who_gave_it(tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'method = "uce"\nsource = "a paper"\n[request]\ntargets = ["pizza"]\nretain = ["sky"]\n[settings]\nlamb ='
        " 0.3\npreserve_scale = 2.0\n",
        encoding="utf-8",
    )
    rows = explained(path, "--set", "lamb=0.7", "--retain", "sea", "--limit", 3, "--seed", 5)
    for place, value, layer in (
        (("settings", "erase_scale"), 1.0, "default"),
        (("settings", "preserve_scale"), 2.0, "recipe"),
        (("settings", "lamb"), 0.7, "--set"),
        (("request", "targets"), ["pizza"], "recipe"),
        (("request", "retain"), ["sea"], "flag"),
        (("request", "anchors"), None, "default"),
        (("drawing", "direct"), 3, "flag"),
        (("drawing", "seed"), 5, "flag"),
        (("drawing", "steps"), 20, "default"),
    ):
        assert (rows[place]["value"], rows[place]["layer"]) == (value, layer), place
    assert explained(path, "crown")["request", "targets"]["value"] == ["crown"]
    assert explained(path, "--model", "elsewhere")["drawing", "guidance_scale"]["value"] == 7.5
    table = run("explain", path).stdout
    assert "source: a paper" in table
    assert "lambda, pull towards the old weights, > 0." in table


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("spm-sdxl",), "unconditional: Stable Diffusion XL's pipeline takes zeros"),
        (("uce-object",), None),
        (("uce-object", "--model", "sdxl"), "pooled text: Stable Diffusion XL also reads the pooled text of"),
        (("spm-sdxl", "--model", "moji"), None),
        (("spm-sdxl", "--model", "nowhere"), "unconditional: "),
        (("moji-p4d",), None),
    ],
)
def test_what_an_edit_cannot_reach_is_told_before_it_is_made(words, note, tmp_path) -> None:
    given = [tiny.folder("sdxl", tmp_path / word) if word == "sdxl" else word for word in words]
    told = run("explain", *given).stdout
    assert (note in told) if note else ("pooled text" not in told and "unconditional" not in told)
    notes = json.loads(run("explain", *given, "--json").stdout)["notes"]
    assert list(notes) == ([note.partition(":")[0]] if note else [])


@pytest.mark.parametrize("name", list(recipes()))
def test_every_packaged_recipe_is_explained_in_full(name) -> None:
    loaded = load_recipe(name)
    kind, _, owner = loaded.owner.partition(" ")
    info = {"method": methods, "attack": attacks, "protection": protections}[kind][owner]
    rows = {key[1]: row for key, row in explained(name).items() if key[0] == "settings"}
    assert rows.keys() == {field.name for field in fields(info.settings)}
    assert {key for key, row in rows.items() if row["layer"] == "recipe"} == loaded.settings.keys()
    assert all(row["layer"] in ("recipe", "default") for row in rows.values())


def test_a_meaning_is_the_fields_own_comment() -> None:
    assert field_descriptions(UCE)["lamb"] == "lambda, pull towards the old weights, > 0."
    assert field_descriptions(type("Made", (), {})) == {}


BAD = {
    "no recipe of that name": (("moji-uec",), "did you mean 'moji-uce'"),
    "no such file": (("nowhere.toml",), "No such file"),
    "unknown setting": (("moji-uce", "--set", "lam=1"), "did you mean 'lamb'"),
    "wrong type": (("moji-uce", "--set", "lamb=much"), "lamb = 'much'"),
    "out of range": (("moji-uce", "--set", "lamb=0"), "lamb must be > 0"),
    "unknown kind": (("moji-uce", "--kind", "animal"), "kind 'animal'"),
    "an attack takes no request": (("moji-p4d", "--anchor", "goat"), "leave out anchors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_are_one_line(case) -> None:
    words, said = BAD[case]
    result = run("explain", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_recipe(tmp_path) -> None:
    path = tmp_path / "r.toml"
    for text in ('method = "uce"', 'method = "uce"\nsource = "x"\n[settings]\nnothing = 1', "[["):
        path.write_text(text)
        result = run("explain", path)
        assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
