"""Sentences around concepts: a method that has some refuses one that names a target."""

import ast
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.errors import RequestError
from unconcept.methods import methods
from unconcept.prompts.templates import OBJECT_SENTENCES, STYLE_SENTENCES, open_sentences

REQUEST = Request(("dog face", "ink"), ("goat", "flat"), ("cat",), "style")
ANCHORLESS = Request(("dog face", "ink"), (), ("cat",))
PLACES = [  # Every setting that takes sentences, by its type.
    (name, field.name, field.type)
    for name in methods
    for field in fields(methods[name].settings)
    if field.name in ("templates", "prompt", "picture_prompt")
]


def source_of(name: str) -> ast.Module:
    return ast.parse(Path(import_module(methods[name].settings.__module__).__file__).read_text(encoding="utf-8"))


def test_every_method_that_checks_sentences_is_tested_here() -> None:
    checking = {name for name in methods if "check_sentences(" in ast.unparse(source_of(name))}
    assert checking == {name for name, *_ in PLACES}


@pytest.mark.parametrize("named", ["dog face", "Ink"])
@pytest.mark.parametrize(("name", "field", "kind"), PLACES)
def test_a_sentence_that_names_a_target_is_refused_in_one_line(name, field, kind, named) -> None:
    """Before anything is drawn or trained: the picture of such a request would show what is to be kept."""
    given = f"a {{}} in {named} style"
    settings = QUICK.get(name, {}) | {field: given if kind is str else ("a {}", given)}
    request = REQUEST if methods[name].does == "erase" else ANCHORLESS
    view = tiny.view(family_for(name))
    with pytest.raises(RequestError) as caught:
        methods[name].settings(**settings).erase(view, request, planted_services(view))
    said = str(caught.value)
    assert said.startswith(f"{name}: sentence {given!r} names the target {named!r}")
    assert "write {} in its place" in said
    assert "\n" not in said


def test_a_sentence_that_names_an_anchor_is_none_of_them() -> None:
    assert open_sentences("trce", REQUEST, ["a {} in flat style"]) == ("a {} in flat style",)


def test_of_the_usual_sentences_those_that_name_no_target_are_left() -> None:
    found = open_sentences("mace", Request(("poster",), ("card",)))
    assert found == tuple(text for text in OBJECT_SENTENCES if "poster" not in text)
    assert 0 < len(found) < len(OBJECT_SENTENCES)
    assert open_sentences("mace", REQUEST) == STYLE_SENTENCES


def test_without_any_usual_sentence_own_ones_are_asked_for() -> None:
    with pytest.raises(RequestError, match="--set templates="):
        open_sentences("mace", Request(("a", "an", "in", "art"), ("b", "c", "d", "e"), kind="style"))
