"""What a Python user may pass by mistake: one clear line of our own errors, never Python's."""

from dataclasses import fields
from functools import partial

import pytest

import unconcept
from tests import tiny
from tests.edits.test_checksum import EDITS
from unconcept import Concept, Request, UnconceptError, load_edit, open_model
from unconcept.attacks import attacks
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.seeds import SEED_BOUND, numbered_seed
from unconcept.methods import methods

SETTINGS = {f"{registry.noun} {name}": registry[name].settings for registry in (methods, attacks) for name in registry}
SEEDED = {name: kind for name, kind in SETTINGS.items() if any(field.name == "seed" for field in fields(kind))}
REQUEST = Request(("dog",), ("cat",))


def refused(call, said: str, error: type[UnconceptError] = UnconceptError) -> None:
    with pytest.raises(error, match=said) as found:
        call()
    line = str(found.value)
    assert len(line.splitlines()) == 1
    assert line.encode()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_every_method_and_attack(name) -> None:
    kind = SETTINGS[name]
    for field in fields(kind):
        for value in (object(), {"a": object()}, 1j):
            refused(partial(kind, **{field.name: value}), rf"{name.split()[1]} setting {field.name} = ", SettingsError)
    refused(lambda: kind(no_such=1), f"unknown {name.split()[1]} setting 'no_such'", SettingsError)
    refused(lambda: kind(*range(99)), "too many positional arguments", SettingsError)


@pytest.mark.parametrize("name", SEEDED)
def test_every_seed(name) -> None:
    for seed in (2**31, 2**63, 10**40, -1):
        refused(partial(SEEDED[name], seed=seed), f"seed must be 0 to {SEED_BOUND - 1}, got {seed}", SettingsError)


def test_seeds_of_published_prompts_can_be_derived_from() -> None:
    assert 0 <= numbered_seed(2**63 - 1, 7) < 2**63
    assert numbered_seed(SEED_BOUND - 1, 7) == (SEED_BOUND - 1) * 1_000_003 + 7


@pytest.mark.parametrize("kind", EDITS)
def test_every_kind_of_edit(kind) -> None:
    pipe, edit = tiny.pipeline("sd1"), EDITS[kind]
    for model in (None, "moji", pipe):
        with pytest.raises(UnconceptError, match="is no opened model: open it with open_model"), edit.applied(model):
            raise AssertionError
    refused(lambda: edit.apply_to(None), "a NoneType in memory is not a supported model")


CALLS = {
    "unknown keyword": (
        lambda: unconcept.erase("dog", ankors="cat"),
        "unknown erase keyword 'ankors'; did you mean 'anchors'",
    ),
    "another one": (
        lambda: unconcept.evaluate("dog", edit="e", out="o"),
        "unknown evaluate keyword 'edit'; did you mean 'edits'",
    ),
    "too many": (lambda: unconcept.erase("dog", "cat"), "erase: too many positional arguments; see help"),
    "out": (lambda: unconcept.erase("dog", out=3), "erase keyword out = 3: input"),
    "prompts": (lambda: unconcept.bench("dog", out="o", prompts=3), "bench keyword prompts = 3: input"),
    "bytes": (lambda: unconcept.erase(b"dog"), "erase keyword concepts = b'dog'"),
    "seed": (lambda: unconcept.erase("dog", seed=10**30), "--seed: seed must be 0 to 2147483647"),
    "setting": (lambda: unconcept.erase("dog", settings={"lamb": "x"}), "uce setting lamb = 'x'"),
    "surrogate": (
        lambda: unconcept.erase("d\udcff", anchors="cat", model=tiny.pipeline("sd1")),
        r"concept 'd\\udcff' is no valid Unicode text",
    ),
    "path": (lambda: load_edit(None), "a NoneType is no path of an edit file"),
    "zero byte": (lambda: load_edit("a\0b"), "missing, cut short or damaged"),
    "device": (lambda: open_model("moji", device=0), "device 0: give its name"),
    "dtype": (lambda: open_model("moji", dtype=1), "dtype 1: allowed are auto"),
    "model": (lambda: open_model(3), "a int in memory is not a supported model"),
    "request": (
        lambda: unconcept.UCE().erase(tiny.shared("sd1"), "dog"),
        "erases what a Request asks for, not a str",
    ),
    "no model": (lambda: unconcept.UCE().erase(None, REQUEST), "uce erases from a model that open_model opened"),
    "concept": (lambda: Concept(3), "concept 3 is no text"),
    "surrogate in a concept": (
        lambda: Concept("d\ud800"),
        r"concept 'd\\ud800' is no valid Unicode text: write it in UTF-8",
    ),
    "surrogate in a request": (lambda: Request(("a",), ("\udfff",)), r"anchors '\\udfff' is no valid Unicode text"),
    "no texts": (lambda: Request(None, ()), "targets = None: give a tuple of texts"),
    "number": (lambda: Request((3,), ("a",)), "targets: 3 is no text: give names"),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[case])
    assert list(tmp_path.iterdir()) == []


def test_a_request_names_the_fault() -> None:
    refused(lambda: Request(("a", "b"), ("c",)), "2 targets but 1 anchors", RequestError)
