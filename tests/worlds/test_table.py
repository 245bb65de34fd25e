"""The one table: its counts, its splits, and that nothing held out can enter a request."""

import itertools
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from unconcept.core.errors import UnknownName
from unconcept.core.recipe import load_recipe, recipes
from unconcept.core.request import RequestSpec
from unconcept.erasing.request_defaults import resolve_request
from unconcept.prompts.checks import GroupSizes, moji_checks
from unconcept.worlds.recipes import current_recipe
from unconcept.worlds.registry import worlds
from unconcept.worlds.table import concept_table

TABLE = concept_table()
ERASABLE = [entry for entry in TABLE.entries if entry.erasable]


def test_counts() -> None:
    kinds = Counter((e.kind, e.erasable, e.split) for e in TABLE.entries)
    assert (kinds["object", True, "report"], kinds["object", True, "seen"]) == (99, 1)
    assert kinds["object", True, "tune"] >= 20
    assert kinds["object", False, "tune"] >= 30
    assert sum(kinds["object", False, part] for part in ("tune", "report")) >= 120
    assert [kinds["style", True, part] for part in ("report", "seen", "tune")] == [5, 1, 2]
    assert [kinds["harmful", True, part] for part in ("report", "seen", "tune")] == [6, 1, 3]
    assert (kinds["person", False, "report"], kinds["person", False, "tune"]) == (8, 4)
    assert all(len(e.styles) == 8 for e in TABLE.objects if e.kind != "person")
    assert {"dog face", "pizza", "rocket", "crown"} <= {e.name for e in ERASABLE}


def test_every_wording_means_one_thing() -> None:
    words = [word.replace(" ", "") for entry in TABLE.entries for word in entry.wordings]
    assert len(words) == len(set(words))


def test_references_resolve_and_splits_are_disjoint() -> None:
    for entry in TABLE.entries:
        for name in entry.near.all:
            assert TABLE[name] is not entry
        assert not set(entry.near.given) & set(entry.near.held_out)
        if entry.anchor is not None:
            assert not TABLE[entry.anchor].erasable or entry.kind == "style"
            assert entry.anchor not in entry.near.all


def test_planted_bias_is_balanced() -> None:
    professions = [e for e in TABLE.entries if e.kind == "person"]
    assert Counter(e.ratio for e in professions) == {(0.8, 0.2): 6, (0.2, 0.8): 6}


def test_a_twentieth_of_the_pairs_is_unseen() -> None:
    objects = [e for e in TABLE.objects if e.kind != "person"]
    share = sum(len(e.unseen) for e in objects) / sum(len(e.styles) for e in objects)
    assert share == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("entry", ERASABLE, ids=lambda e: e.name)
def test_defaults_use_nothing_held_out(entry) -> None:
    request = resolve_request(RequestSpec((entry.name,)), "moji").request
    held_out = {*entry.synonyms.held_out, *entry.indirect.held_out, *entry.near.held_out}
    measured = {e.name for e in TABLE.far("held_out")}
    assert not held_out & {*request.targets, *request.anchors, *request.retain}
    assert not (measured - set(entry.near.given)) & set(request.retain)
    assert len(request.retain) >= 40


@pytest.mark.parametrize("entry", ERASABLE, ids=lambda e: e.name)
def test_checks_do_not_ask_what_was_given(entry) -> None:
    """Measured words are held out; tuning asks given ones only, and its far objects are the tune ones."""
    request = resolve_request(RequestSpec((entry.name,)), "moji").request
    checks = moji_checks(TABLE, [entry.name], GroupSizes(8, 8))
    for group, check in itertools.product(("near", "far"), checks):
        assert check.group != group or check.concept not in request.retain
    assert all(check.prompt.seed >= 1_000_000 for check in checks)
    tuning = moji_checks(TABLE, [entry.name], GroupSizes(8, 8, tuning=True))
    assert all(check.prompt.seed < 1_000_000 for check in tuning)
    words = {*entry.synonyms.held_out, *entry.indirect.held_out}
    assert not any(word == check.prompt.text.removeprefix("a ") for word in words for check in tuning)
    assert all(TABLE[check.concept].split == "tune" for check in tuning if check.group == "far")


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("moji-")])
def test_moji_recipes_carry_the_tables_hash_and_the_models_version(name) -> None:
    assert load_recipe(name).table_hash == TABLE.hash
    world = "moji-flow" if name.startswith("moji-flow-") else "moji"
    assert current_recipe(name).world == worlds[world].dated_name


def test_headline_rows_are_on_report_concepts() -> None:
    from benchmarks.report_concepts import report_concepts

    assert {TABLE[name].split for name in report_concepts()} == {"report"}


def test_the_shipped_model_names_no_folder_it_came_from() -> None:
    configs = [*Path(str(resources.files("unconcept.worlds"))).rglob("*.json")]
    assert len(configs) > 10
    for path in configs:
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("dog fase", "dog face"), ("a dog", "dog face"), ("sharp blade", "kitchen knife"), ("guitars", "guitar")],
)
def test_unknown_concept_suggests_by_letters_words_and_wordings(typed, meant) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{meant}'"):
        TABLE[typed]
