"""Erasers as an edit: applied, scaled, saved, refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from unconcept.core.errors import EditError, UnconceptError
from unconcept.core.request import Request, RequestSpec
from unconcept.edits import AdapterEdit, BottleneckAdapter, load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import EXPORT_TARGETS, export_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models.hooks.modules import attention_linears
from unconcept.training import TrainableLowRank

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
CHOSEN = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
QUICK = {"iterations": 0, "eraser_rank": 3}


def made(view) -> AdapterEdit:
    """Erasers with random numbers everywhere."""
    rng = torch.Generator().manual_seed(2)
    plain = make_edit(view, CHOSEN, "receler", QUICK)
    erasers = {
        name: BottleneckAdapter(*(0.2 * torch.randn(t.shape, generator=rng) for t in vars(one).values()))
        for name, one in plain.erasers.items()
    }
    return replace(plain, erasers=erasers)


@torch.no_grad()
def said(view, texts=("a dog",)):
    noise = (
        torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
        .to(view.dtype)
        .expand(len(texts), -1, -1, -1)
    )
    return view.denoise(noise, torch.tensor([500]), list(texts))


@pytest.mark.parametrize("family", EVERY)
def test_saved_scaled_and_left(family, tmp_path) -> None:
    view = tiny.view(family)
    edit, plain = made(view).scaled(0.5), said(view)
    edit.save(tmp_path / "e.safetensors")
    loaded = load_edit(tmp_path / "e.safetensors")
    assert isinstance(loaded, AdapterEdit)
    assert (loaded.hash, loaded.origin, loaded.names, loaded.parameters, loaded.bound_names) == (
        edit.hash,
        edit.origin,
        (),
        edit.parameters,
        edit.bound_names,
    )
    assert edit.hash != edit.scaled(2.0).hash
    with edit.applied(view):
        whole = said(view)
    with loaded.applied(view):
        assert torch.allclose(said(view), whole, atol=1e-12)
        assert torch.allclose(said(view, ["a dog", "", "fox"])[:1], whole, atol=1e-6)
    assert not torch.allclose(whole, plain, atol=1e-5)
    with edit.scaled(0.0).applied(view):
        assert torch.allclose(said(view), plain, atol=1e-12)
    assert torch.allclose(said(view), plain, atol=1e-12)
    assert all(
        name.endswith("attn2.to_out.0.weight" if family in tiny.FAMILIES else ".attn.to_out.0.weight")
        for name in edit.bound_names
    )
    assert edit.static() is edit


def test_a_half_model_computes_in_half() -> None:
    view = tiny.view("sd1", torch.bfloat16)
    with made(tiny.view("sd1", torch.bfloat16)).applied(view):
        assert said(view).dtype == torch.bfloat16


def test_erasers_read_what_changed_maps_give() -> None:
    """A low-rank change trained inside of the edit is the same change laid over the weights, before or after."""
    view = tiny.view("sd1")
    edit, trained = made(view), TrainableLowRank(view, attention_linears(view), 2)
    with torch.no_grad():
        for tensor in trained.tensors.values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    found = []
    for outer, inner in ((edit.applied(view), trained.student()), (trained.student(), edit.applied(view))):
        with outer, inner:
            found.append(said(view))
    change = trained.edit({})
    for outer, inner in ((edit, change), (change, edit)):
        with outer.applied(view), inner.applied(view):
            found.append(said(view))
    assert all(torch.allclose(one, found[0], atol=1e-6) for one in found)


def test_another_base_is_refused() -> None:
    edit = made(tiny.view("sd1"))
    with (
        pytest.raises(EditError, match=rf"made for tiny-sd1 \({edit.origin.base_hash[:12]}\), not for tiny-sd1"),
        edit.applied(tiny.view("sd1", seed=1)),
    ):
        pass
    with pytest.raises(UnconceptError), edit.applied(tiny.shared("flux")):
        pass


def test_erasers_of_another_width_are_refused() -> None:
    view = tiny.view("sd1")
    edit = replace(made(view), origin=None)
    name = edit.bound_names[0]
    wrong = BottleneckAdapter(torch.zeros(2, 5), torch.zeros(2), torch.zeros(5, 2), torch.zeros(5))
    with (
        pytest.raises(EditError, match="another width"),
        replace(edit, erasers={**edit.erasers, name: wrong}).applied(view),
    ):
        pass


def test_no_file_of_weights_can_hold_them(tmp_path) -> None:
    view, base = tiny.view("sd1"), tiny.folder("sd1", tmp_path / "base")
    edit = made(view)
    for out in ("a", "b"):
        with pytest.raises(EditError, match="networks of their own"):
            bake(edit, base, tmp_path / out)
    for target in EXPORT_TARGETS:
        with pytest.raises(EditError, match="networks of their own"):
            export_edit(edit, base, target, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    with pytest.raises(EditError, match="no delta of unet"):
        edit.delta("unet.conv_in.weight", torch.zeros(1))


def test_figures_without_a_picture() -> None:
    view = tiny.view("sd1")
    assert make_edit(view, CHOSEN, "receler", QUICK).origin.report["relative_norm"] == 0
    edit = made(view)
    figures = edit.effect(view, Request(("dog",), (), ()))
    assert figures["relative_norm"] > 0
    halved = edit.scaled(0.5).effect(view, Request(("dog",), (), ()))
    assert halved["relative_norm"] == pytest.approx(figures["relative_norm"] / 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"eraser": "gate"}, "its eraser is 'gate'"),
        ({"strength": "much"}, "its strength is 'much'"),
        ({"strength": None}, "its strength is None"),
        ({"drop": "up"}, "missing or unknown parts"),
        ({"add": "more"}, "missing or unknown parts"),
        ({"shape": "down"}, "do not fit"),
        ({"drop": ""}, "has no eraser"),
    ],
)
def test_damaged_files_are_refused(change, told, tmp_path) -> None:
    path = tmp_path / "e.safetensors"
    edit = made(tiny.shared("sd1"))
    edit.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, details, name = load_file(path), json.loads(metadata["details"]), edit.bound_names[0]
    match change:
        case {"drop": part}:
            tensors = {key: t for key, t in tensors.items() if part and key != f"{name}.{part}"}
        case {"add": part}:
            tensors[f"{name}.{part}"] = torch.zeros(1)
        case {"shape": part}:
            tensors[f"{name}.{part}"] = torch.zeros(7, 7)
        case _:
            details |= change
    del metadata["tensors_sha256"]  # As in a file of another program, which has none.
    save_file(tensors, path, metadata={**metadata, "details": json.dumps(details)})
    with pytest.raises(UnconceptError, match=told):
        load_edit(path)
