"""Families that read a language model: what methods edit there, and what they promise of it."""

import re

import pytest
import torch

from tests import tiny
from tests.methods.quick import quick_settings
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.linalg.moments import SecondMoments
from unconcept.methods import methods
from unconcept.models.families import families
from unconcept.models.text.state_rows import attended_rows, shared_context_rows

FAMILIES = [name for name in families if families[name].states_map]
ONE_SENTENCE = {"templates": ("a photo of {}",)}
CLOSED = {"uce": {}, "speed": {}, "rece": {}, "trce": ONE_SENTENCE, "mace": {"max_train_steps": 0, **ONE_SENTENCE}}
CASES = [(name, family) for name in CLOSED for family in FAMILIES if family in methods[name].families]
REQUEST = Request(("dog face",), ("goat",), ("cat", "red car"))
_OWN_MAPS = r"transformer\.transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)\."
OWN = {"zimage": r"transformer\.context_refiner\.", **dict.fromkeys(("flux2", "flux2_klein", "qwenimage"), _OWN_MAPS)}


@pytest.mark.parametrize(("name", "family"), CASES)
def test_closed_forms_edit_the_one_map_that_text_alone_passes(name, family) -> None:
    """The list of edited tensors; none of them is read by the picture's stream, and none is a text encoder's."""
    view = tiny.shared(family)
    edit = methods[name].settings(**CLOSED[name]).erase(view, REQUEST)
    assert edit.names == (f"transformer.{families[family].states_map}",) == tuple(view.text_maps())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["esd", "concept-ablation"])
def test_trainings_edit_the_text_s_own_weights(name, family) -> None:
    edit = methods[name].settings(**quick_settings(name, family)).erase(tiny.view(family, torch.float32), REQUEST)
    assert edit.names
    assert all(re.match(OWN[family], each) for each in edit.names)


@pytest.mark.parametrize("family", FAMILIES)
def test_uce_maps_the_target_onto_its_anchor_inside_the_template(family) -> None:
    """At a small lambda, exactly; the last subject token is the last one of the name, whatever the template adds."""
    view = tiny.shared(family)
    edit = methods["uce"].settings(lamb=1e-9).erase(view, REQUEST)
    ((name, weight),) = view.text_maps().items()
    new = weight.double() + edit.delta(name, weight).double()
    target, anchor, kept = (view.embed([text]).double() for text in ("dog face", "goat", "cat"))
    assert torch.allclose(target @ new.T, anchor @ weight.double().T, atol=1e-5)
    assert torch.allclose(kept @ new.T, kept @ weight.double().T, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if families[name].first_encoder.is_masked])
def test_speed_holds_the_empty_text_and_maps_whole_tails(family) -> None:
    """Of every text an explicit request maps the last subject token and what the template puts after it."""
    view, request = tiny.shared(family), Request(("dog face",), ("goat",), ("cat",), kind="explicit")
    edit = methods["speed"].settings(aug_num=0, null_text="all").erase(view, request)
    ((name, weight),) = view.text_maps().items()
    delta = edit.delta(name, weight).double()
    (null,) = attended_rows(view, [""], view.embed([""], at="all"))
    assert torch.allclose(null.double() @ delta.T, torch.zeros(1, dtype=torch.float64), atol=1e-6)
    assert delta.norm() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["mace", "trce"])
def test_of_few_rows_no_square_matrix_is_made(name, monkeypatch) -> None:
    """And the edit is the equation's over every row, padding and all: of FLUX.2's 512 rows a text, most are one pad."""
    view, form, lamb = tiny.view("flux2", text_width=200), "a photo of {}", 0.3
    own = {"mace": {"train_preserve_scale": 0.1, "preserve_weight": 2.0}, "trce": {"preserve_scale": 0.5}}
    with monkeypatch.context() as patch:
        patch.setattr(SecondMoments, "gram", property(lambda moments: pytest.fail("a square matrix was made")))
        edit = (
            methods[name]
            .settings(**CLOSED[name], **own[name], lamb=lamb)
            .erase(view, Request(("dog face",), ("goat",), ("cat",)))
        )
    ((name_of_map, w),) = view.text_maps().items()
    kept, at = view.embed(["cat"], at="all")[0], [form.replace("{}", word) for word in ("dog face", "goat")]
    if name == "mace":
        (rows,) = shared_context_rows(view, [form], "dog face", "goat")
        c, a, weight = *rows, 0.1 * 2.0
    else:
        c, a = view.embed(at, at="all")[range(2), view.tokenizer(at).index("first_eot")].split(1)
        weight = 0.5**2
    square = weight * kept.T @ kept + lamb * torch.eye(600, dtype=torch.float64)
    wanted = (w @ a.T @ c + w @ square) @ torch.linalg.inv(c.T @ c + square)
    assert len(edit.x) < 300
    assert torch.allclose(w + edit.delta(name_of_map, w), wanted, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_defined_there_is_refused_in_one_line(family) -> None:
    view = tiny.shared(family)
    refused = {"mace": {}, "trce": {"epochs": 1}}
    for name, settings in refused.items():
        with pytest.raises(SettingsError, match=r"max_train_steps = 0|epochs = 0"):
            methods[name].settings(**settings).erase(view, REQUEST)
    with pytest.raises(RequestError, match="tokens long, the text encoder holds"):
        methods["uce"].settings().erase(view, Request(("x" * 600,), ("goat",)))


def test_what_text_and_picture_share_is_not_trained_unasked() -> None:
    """All of Z-Image's layers; only "full" trains them."""
    with pytest.raises(SettingsError, match="not defined for a joint transformer: choose one of xattn, kv, full"):
        methods["esd"].settings(train_method="u").erase(tiny.shared("zimage"), REQUEST)


def test_rece_is_refused_where_the_map_has_fewer_rows_than_columns() -> None:
    assert "fewer rows than columns" in methods["rece"].refusal("qwenimage")
