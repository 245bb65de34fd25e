"""Two texts are one if every tokenizer of the model gives the same ids."""

import unicodedata
from dataclasses import fields

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.errors import RequestError
from unconcept.core.request import RequestSpec
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import ResolvedRequest, resolve_request
from unconcept.methods import methods
from unconcept.methods.eraseanything import EraseAnything
from unconcept.methods.rece import RECE
from unconcept.methods.uce_debias import UCEDebias
from unconcept.methods.uce_unified import UCEUnified
from unconcept.models.text.text_identity import TokenTextKey, request_as_read

READ_CAPITALS = {"sd1": False, "sd2": False, "sdxl": False, "pixart": False, "sd3": True, "flux": True}


@pytest.mark.parametrize("family", READ_CAPITALS)
def test_capitals_count_where_a_tokenizer_reads_them(family) -> None:
    """CLIP's fold them and PixArt's pipeline does; SD3 and FLUX also give the text to T5, which reads them."""
    view = tiny.shared(family)
    key = TokenTextKey.of(view)
    assert key.folds_case != READ_CAPITALS[family]
    assert key("") == key(" \n")
    assert key("red hat") == key(" red  hat")
    assert key("red hat") != key("red cat")
    request = Request(("Red hat",), ("cat",), ("red hat",), folds_case=False)
    if READ_CAPITALS[family]:
        assert request_as_read(view, request).retain == ("red hat",)
    else:
        with pytest.raises(RequestError, match="'Red hat' is also retained, as 'red hat'"):
            request_as_read(view, request)


def test_ids_decide_beyond_capitals_and_white_space() -> None:
    """CLIP splits words at marks, so spaces beside them are not read."""
    key = TokenTextKey.of(tiny.shared("sd1"))
    assert key("red!hat") == key("red ! hat")
    with pytest.raises(RequestError, match="one text to the model"):
        request_as_read(tiny.shared("sd1"), Request(("red!hat",), ("cat",), ("red ! hat",)))


def test_an_edit_is_refused_whose_anchor_is_the_target_to_the_model() -> None:
    chosen = ResolvedRequest(Request(("red!hat",), ("red ! hat",)), (), {})
    with pytest.raises(RequestError, match="only in how it is spelled"):
        make_edit(tiny.shared("sd1"), chosen, "uce", {})


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (methods[n].mechanism in ("trained", "one-step"))) for n in methods],
)
def test_spellings_of_retained_texts_count_once(name) -> None:
    """Of the null text too, which several methods retain by themselves."""
    view = tiny.view("sd1", torch.float32)
    acute = unicodedata.normalize("NFD", "caf\u00e9")
    anchor = ("goat",) if methods[name].does == "erase" else ()

    def hash_with(*retain: str) -> str:
        request = Request(("dog face",), anchor, retain)
        return methods[name].settings(**QUICK.get(name, {})).erase(view, request, planted_services(view)).hash

    once = hash_with("", "cat", unicodedata.normalize("NFC", acute))
    assert hash_with(" ", "cat", acute, "", "CAT", " cat") == once


def test_a_retained_null_text_is_the_one_that_a_method_adds() -> None:
    """RECE retains the empty text by itself: to name it changes nothing."""
    view = tiny.shared("sd1")
    edits = [
        make_edit(view, resolve_request(RequestSpec(("dog",), ("cat",), retain), "tiny"), "rece", {}).hash
        for retain in ((), (" ",), ("",), ("", " "))
    ]
    assert len(set(edits)) == 1


def test_texts_in_settings_are_read_alike_too() -> None:
    """Every setting that is a list of texts, but for sentences."""
    lists = {
        (name, field.name)
        for name in methods
        for field in fields(methods[name].settings)
        if field.type == tuple[str, ...] and field.name != "templates"
    }
    debiasing = {("uce-debias", "attributes"), ("uce-unified", "attributes"), ("uce-unified", "debias")}
    assert lists == {("rece", "start_retain"), ("eraseanything", "synonyms"), *debiasing}
    view = tiny.shared("sd1")
    request = Request(("dog face",), ("goat",))
    once, spelled = (RECE(start_retain=texts).erase(view, request) for texts in (("", "cat"), ("", " ", "CAT", "cat ")))
    assert once.hash == spelled.hash
    joint = tiny.view("sd3", torch.float32)
    once, spelled = (
        EraseAnything(**QUICK["eraseanything"], synonyms=words).erase(
            joint, Request(("dog face",), ("goat",), ("cat",))
        )
        for words in (("hound", "cur"), ("hound", "cur", " hound", "cur "))
    )
    assert once.hash == spelled.hash
    with pytest.raises(RequestError, match=r"attributes \['red!hat', 'Red ! hat'\] are one text to the model"):
        UCEDebias(attributes=("red!hat", "Red ! hat")).erase(view, Request(("dog",), ()), planted_services(view))
    for settings, told in (
        ({"attributes": ("red!hat", "Red ! hat")}, r"attributes \['red!hat', 'Red ! hat'\] are one text"),
        ({"debias": ("cook", " Cook")}, r"debias \['cook', ' Cook'\] are one text"),
        ({"debias": ("Dog  face",)}, r"\['Dog  face'\] is to be debiased and erased or retained"),
    ):
        with pytest.raises(RequestError, match=told):
            UCEUnified(**settings).erase(view, request, planted_services(view))
