"""Edits are data: applied, left, baked, saved, refused."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests import tiny
from unconcept.core.errors import EditError, SettingsError, UnconceptError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, EditOrigin, LowRankEdit, load_edit
from unconcept.edits.export.bake import bake
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.views.unet import UNetView

CHOSEN = resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny")
ORIGIN = EditOrigin("uce", {}, ("dog",), ("",), (), "object", "sd1", "tiny", "0" * 64, "0")


def made(folder, family="sd1"):
    view = open_model(str(folder), "cpu", "float32")
    return view, make_edit(view, CHOSEN, "uce", {})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_baked_folder_draws_what_the_applied_edit_draws(family, tmp_path) -> None:
    """Stock diffusers loads the folder; the pictures are equal, and every byte that is not edited is the same."""
    from diffusers import DiffusionPipeline

    folder = tiny.folder(family, tmp_path / "base")
    view, edit = made(folder, family)
    bake(edit, folder, tmp_path / "baked")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with edit.applied(view):
        applied = view.sample(["a dog face"], noise, 2, 3.0)
    stock = DiffusionPipeline.from_pretrained(tmp_path / "baked", local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    assert torch.equal(UNetView.from_pipeline(stock).sample(["a dog face"], noise, 2, 3.0), applied)
    assert not torch.equal(view.sample(["a dog face"], noise, 2, 3.0), applied)
    before, after = (
        load_file(tmp_path / name / "unet/diffusion_pytorch_model.safetensors") for name in ("base", "baked")
    )
    changed = {f"unet.{name}" for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(edit.names)


def test_half_precision_folder_keeps_its_dtype(tmp_path) -> None:
    pipe = tiny.pipeline("sd1").to(dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "base")
    _, edit = made(tmp_path / "base")
    bake(edit, tmp_path / "base", tmp_path / "baked")
    after = load_file(tmp_path / "baked/unet/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in after.values()} == {torch.float16}


def test_another_base_is_refused_with_both_hashes(tmp_path) -> None:
    _, edit = made(tiny.folder("sd1", tmp_path / "base"))
    other = UNetView.from_pipeline(tiny.pipeline("sd1", seed=1))
    with (
        pytest.raises(EditError, match=rf"{edit.origin.base_hash[:12]}.*not for pipeline \([0-9a-f]{{12}}\)"),
        edit.applied(other),
    ):
        pass
    tiny.pipeline("sd1", seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(EditError, match="made for other weights"):
        bake(edit, tmp_path / "other", tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_another_family_is_refused(tmp_path) -> None:
    _, edit = made(tiny.folder("sd1", tmp_path / "base"))
    renamed = replace(edit, maps=tuple(name.replace("unet.", "transformer.") for name in edit.names))
    with pytest.raises(EditError, match="no transformer"):
        bake(renamed, tmp_path / "base", tmp_path / "baked")


def test_edits_nest_and_the_reference_stays_in_sight() -> None:
    view = tiny.view("sd1", torch.float32)
    edit = make_edit(view, CHOSEN, "uce", {})
    name = edit.names[0]
    plain = view.text_maps()[name].detach().clone()
    with edit.applied(view):
        with edit.applied(view):
            assert torch.allclose(view.text_maps()[name], plain + 2 * edit.delta(name, plain), atol=1e-5)
            assert torch.equal(view.reference([name])[name], plain)
        assert torch.allclose(view.text_maps()[name], plain + edit.delta(name, plain), atol=1e-6)
    assert torch.equal(view.text_maps()[name], plain)


def test_an_error_inside_leaves_the_weights_as_they_were() -> None:
    view = tiny.view("sd1", torch.float32)
    edit = make_edit(view, CHOSEN, "uce", {})
    before = {n: w.detach().clone() for n, w in view.text_maps().items()}
    with pytest.raises(RuntimeError, match="stop"), edit.applied(view):
        raise RuntimeError("stop")
    assert all(torch.equal(w, before[n]) for n, w in view.text_maps().items())


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -1e9])
@pytest.mark.parametrize("method", ["uce", "speed", "nag"])
def test_strength_is_a_number_that_can_be_meant(method, strength) -> None:
    edit = make_edit(tiny.shared("sd1"), CHOSEN, method, {})
    for one in (edit, DenseEdit({"a": torch.ones(2, 2)})):
        with pytest.raises(SettingsError, match="from -100 to 100"):
            one.scaled(strength)


def test_strength_is_linear() -> None:
    view = tiny.shared("sd1")
    edit = make_edit(view, CHOSEN, "uce", {})
    assert all(
        torch.allclose(edit.scaled(0.25).delta(n, w), 0.25 * edit.delta(n, w), atol=1e-12)
        for n, w in view.text_maps().items()
    )


def test_nothing_added_keeps_every_bit() -> None:
    from unconcept.edits.weights import weight_sum

    weight = torch.tensor([[-0.0, 0.0, 1.5]]).half()
    assert weight_sum(weight, torch.zeros(1, 3)).view(torch.int16).equal(weight.view(torch.int16))


def test_shared_factor_is_stored_once(tmp_path) -> None:
    down = torch.randn(2, 32)
    edit = LowRankEdit(
        {name: (torch.randn(len(w), 2), down) for name, w in tiny.shared("sd1").text_maps().items()},
        origin=ORIGIN,
    )
    edit.save(tmp_path / "e.safetensors")
    stored = load_file(tmp_path / "e.safetensors")
    assert sum(name.endswith("down") for name in stored) == 1
    assert edit.parameters == sum(t.numel() for t in stored.values())


def test_the_same_edit_is_the_same_bytes(tmp_path) -> None:
    _, edit = made(tiny.folder("sd1", tmp_path / "m"))
    for name in "abcd":
        edit.save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


@pytest.fixture(scope="module")
def edit_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("e") / "e.safetensors"
    make_edit(tiny.view("sd1", torch.float32), CHOSEN, "uce", {}).save(path)
    return path.read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mangled_files_raise_our_errors_or_are_read(data, edit_bytes, tmp_path_factory) -> None:
    import contextlib

    mangled = bytearray(edit_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mangled) - 1) | st.integers(0, 1500))
        mangled[place % len(mangled)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mangled)) | st.just(len(mangled)))
    path = tmp_path_factory.mktemp("m") / "e.safetensors"
    path.write_bytes(bytes(mangled[:cut]))
    with contextlib.suppress(UnconceptError):
        load_edit(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "no unconcept-edit file"),
        ({"format_version": "9"}, "format version 9, this library reads 1"),
        ({"kind": "loud"}, "no edit kind 'loud'"),
        ({"origin": "[]"}, "its origin cannot be read: input should be an object"),
        ({"origin": "{}"}, "its origin cannot be read: method: field required"),
        ({"origin": "{"}, "cannot be read"),
    ],
)
def test_wrong_headers(tmp_path, edit_bytes, change, said) -> None:
    from safetensors import safe_open

    path = tmp_path / "e.safetensors"
    path.write_bytes(edit_bytes)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | change)
    with pytest.raises(UnconceptError, match=said):
        load_edit(path)


def test_files_that_are_no_edit(tmp_path) -> None:
    with pytest.raises(EditError, match="missing, cut short or damaged"):
        load_edit(tmp_path / "no.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(EditError, match="no unconcept-edit file"):
        load_edit(tmp_path / "plain.safetensors")


def test_numbers_that_are_none(tmp_path, edit_bytes) -> None:
    from safetensors import safe_open

    path = tmp_path / "e.safetensors"
    path.write_bytes(edit_bytes)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["y"][0, 0] = float("inf")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(EditError, match="holds NaN, infinity or integers"):
        load_edit(path)


def test_header_says_what_it_is(edit_bytes) -> None:
    size = int.from_bytes(edit_bytes[:8], "little")
    origin = json.loads(json.loads(edit_bytes[8 : 8 + size])["__metadata__"]["origin"])
    assert origin["method"] == "uce"
    assert origin["targets"] == ["dog face", "car"]
    assert len(origin["base_hash"]) == 64


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
def test_the_header_names_the_licence_of_the_base_and_the_libraries(family, tmp_path) -> None:
    """No network is built for it, and the same request still makes the same bytes."""
    from importlib.metadata import version

    folder = tiny.folder(family, tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    for name in ("a", "b"):
        view, edit = made(folder, family)
        edit.save(tmp_path / name)
        assert view.checkpoint.pipeline is None
    origin = load_edit(tmp_path / "a").origin
    assert origin == edit.origin
    assert origin.licence == "openrail++"
    assert (origin.libraries["torch"], origin.libraries["diffusers"]) == (version("torch"), version("diffusers"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_from_before_licences_and_libraries_still_loads() -> None:
    data = json.loads(replace(ORIGIN, licence="mit", libraries={"torch": "2"}).to_json())
    assert EditOrigin.from_json(json.dumps(data)).licence == "mit"
    older = {name: value for name, value in data.items() if name not in ("licence", "libraries")}
    assert EditOrigin.from_json(json.dumps(older)) == ORIGIN


@pytest.mark.parametrize(
    ("field", "value"),
    [("licence", 3), ("licence", None), ("libraries", "torch"), ("libraries", {"torch": 2}), ("more", "x")],
)
def test_a_header_of_other_types_is_refused(field, value) -> None:
    with pytest.raises(EditError, match=field):
        EditOrigin.from_json(json.dumps(json.loads(ORIGIN.to_json()) | {field: value}))
