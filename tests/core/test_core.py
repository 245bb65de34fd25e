"""Registries, settings, requests, recipes and hashes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.toml_text import toml_text
from unconcept.core import Concept, Request, UnconceptError
from unconcept.core.errors import RecipeError, RequestError, SettingsError, UnknownName
from unconcept.core.hashing import hash_tensors
from unconcept.core.output_folder import is_inside
from unconcept.core.recipe import load_recipe
from unconcept.core.registry import Registry
from unconcept.core.request import merge_requests
from unconcept.core.settings import build_settings, parse_assignment, settings_data
from unconcept.methods.uce import UCE


def test_registry_suggests_and_refuses_twice() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("seven")(7)
    assert registry["seven"] == 7
    with pytest.raises(UnknownName, match="no number 'sevn'; did you mean 'seven'"):
        _ = registry["sevn"]
    with pytest.raises(ValueError, match="twice"):
        registry.register("seven")(8)


@pytest.mark.parametrize(
    ("targets", "anchors", "retain", "said"),
    [
        ((), (), (), "no target"),
        ((" ",), ("a",), (), "target .* is empty"),
        (("a", "b"), ("c", "d", "e"), (), "2 targets but 3 anchors"),
        (("a",), ("a",), (), "equals its anchor"),
        (("a",), ("b",), ("a",), "also retained"),
        (("a", "a"), ("b", "c"), (), "name one target twice"),
    ],
)
def test_requests_that_make_no_sense(targets, anchors, retain, said) -> None:
    with pytest.raises(RequestError, match=said):
        Request(targets, anchors, retain)


def test_a_target_is_its_anchor_however_it_is_spelled() -> None:
    """Of what was typed.

    A request made by hand may ask for it: that a method then changes nothing is what tests ask.
    """
    with pytest.raises(RequestError, match="'Van Gogh' differs from its anchor ' van  gogh' only in how it is spelled"):
        Request.of([Concept("Van Gogh", "style")], [" van  gogh"])
    assert Request(("dog face",), ("dog  face",)).anchors == ("dog  face",)


def test_one_anchor_serves_all_and_aliases_become_targets() -> None:
    request = Request.of([Concept("dog", aliases=("hound",)), Concept("cat")], ["goat"], ["", "sky"])
    assert request.targets == ("dog", "hound", "cat")
    assert request.anchors == ("goat",) * 3
    assert request.retain == ("", "sky")


def test_null_anchors_of_the_kinds() -> None:
    assert Request.of([Concept("dog")]).anchors == ("",)
    assert Request.of([Concept("Monet", "style")]).anchors == ("art",)
    assert Request.of([Concept("A B", "person")]).anchors == ("person",)


def test_unknown_and_mistyped_settings() -> None:
    with pytest.raises(SettingsError, match="unknown setting 'lambda'; did you mean 'lamb'"):
        build_settings(UCE, {"lambda": 1.0})
    with pytest.raises(SettingsError, match="lamb = '1'"):
        build_settings(UCE, {"lamb": "1"})
    assert build_settings(UCE, {"lamb": 1}).lamb == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1.5", 1.5),
        ("a=last", "last"),
        ("a=last+tail", "last+tail"),
        ('a="x"', "x"),
        ("a=true", True),
        ("a=", ""),
    ],
)
def test_assignments(text, value) -> None:
    assert parse_assignment(text) == ("a", value)


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_broken_assignments(text) -> None:
    with pytest.raises(SettingsError, match="NAME=VALUE"):
        parse_assignment(text)


def test_hash_is_of_values_not_of_dtype() -> None:
    x = torch.randn(5, 3).half()
    assert hash_tensors({"x": x}) == hash_tensors({"x": x.float()})
    assert hash_tensors({"x": x}) != hash_tensors({"y": x})
    assert hash_tensors({"x": x}) != hash_tensors({"x": x.T})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('method = "uce"', "source is missing"),
        ('method = "uce"\nsource = "x"\nnonsense = 1', "unknown recipe .*'nonsense'"),
        ('method = "uce"\nsource = "x"\n[request]\ntarget = ["a"]', "unknown recipe key .*'target'"),
        ('source = "x"', "a method, an attack or a protection"),
        ('method = "uce"\nattack = "p4d"\nsource = "x"', "a method, an attack or a protection"),
        ("method = uce", "Invalid value"),
        ('method = 3\nsource = "x"', "method = 3"),
    ],
)
def test_broken_recipes(tmp_path, text, said) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UnconceptError, match=said):
        load_recipe(str(path))


def test_recipe_that_is_not_there(tmp_path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(str(tmp_path / "no.toml"))
    with pytest.raises(UnknownName, match="did you mean 'moji-uce'"):
        load_recipe("moji-uec")


@given(st.binary(max_size=400))
def test_mangled_recipes_raise_our_errors_only(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("r") / "r.toml"
    path.write_bytes(data)
    with pytest.raises(UnconceptError):
        load_recipe(str(path))


@given(
    st.dictionaries(
        st.sampled_from(["method", "source", "family", "request", "settings", "table_hash"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_odd_recipes_raise_our_errors_only(tmp_path_factory, data) -> None:
    import contextlib

    path = tmp_path_factory.mktemp("r") / "r.toml"
    try:
        path.write_text(toml_text(data), encoding="utf-8")
    except (TypeError, UnicodeEncodeError):
        return
    with contextlib.suppress(UnconceptError):
        load_recipe(str(path))


def test_dump_is_what_was_built() -> None:
    assert build_settings(UCE, settings_data(UCE(lamb=0.1))) == UCE(lamb=0.1)


@pytest.mark.parametrize("images", ["/etc", "../pictures", "a/../../b"])
def test_a_recipes_folder_of_pictures_cannot_leave_its_own(tmp_path, images) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'method = "few-shot"\nsource = "x"\n[settings]\nimages = "{images}"\n')
    with pytest.raises(RecipeError, match="leaves the recipe's folder"):
        load_recipe(str(path))
    path.write_text('method = "few-shot"\nsource = "x"\n[settings]\nimages = "pictures"\n')
    assert load_recipe(str(path)).settings == {"images": str(tmp_path / "pictures")}


PARTS = (
    Request(("dog", "puppy"), ("goat", "goat"), ("fox", "cat"), withheld=("wolf",)),
    Request(("cat",), ("bird",), ("fox", "wolf", "dog"), withheld=("fox",)),
    Request(("dog",), ("cow",), ("fox",), kind="style"),
)


@given(st.permutations(PARTS), st.integers(1, 3))
def test_united_is_a_function_of_the_set(parts, twice) -> None:
    assert merge_requests([*parts, *parts[:twice]]) == merge_requests(PARTS)


def test_united_by_its_rules() -> None:
    both = merge_requests(PARTS)
    assert both.targets == ("cat", "dog", "puppy")
    assert both.anchors == ("bird", "cow", "goat")  # dog has two anchors: the one that sorts first
    # Typed by the third, though withheld for the second; dog and cat are erased, wolf is withheld.
    assert both.retain == ("fox",)
    assert both.kind == "object"
    assert both.withheld == ("wolf",)
    assert merge_requests(PARTS[:2]).retain == ()
    assert merge_requests([both]) == both
    assert merge_requests(PARTS[2:]).withheld is None
    assert merge_requests([Request(("a",), ("b",), ("fox",), withheld=()), PARTS[1]]).retain == ("dog", "wolf")


def test_united_keeps_what_has_no_anchor() -> None:
    assert merge_requests([Request(("b", "a"), ())]) == Request(("a", "b"), ())
    with pytest.raises(RequestError, match="no request to merge"):
        merge_requests([])


def test_a_path_stays_in_its_folder(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    for name, stays in (
        ("a.png", True),
        ("b/../a.png", True),
        (".", True),
        ("../in/a.png", True),
        ("../a.png", False),
        ("/etc/hosts", False),
    ):
        assert is_inside(tmp_path / "in", name) == stays
    assert not is_inside(tmp_path / "in", "out/a.png")
    assert not is_inside(tmp_path / "in", "a\0b")
