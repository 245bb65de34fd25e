"""Edits of text encoders and adapters in another model of their family: measured there first, and written."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from unconcept.core.errors import EditError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, LowRankEdit, load_edit, origin_of
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.jobs.apply import apply
from unconcept.jobs.command_options import ApplyOptions
from unconcept.jobs.derivatives.transfer import reading_figures, transfer_edit
from unconcept.models import open_model

ASK = RequestSpec(("dog",), ("cat",), ("sun",))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, one that shares its text encoder, an unrelated one, one of another family; and an edit for the first."""
    place = tmp_path_factory.mktemp("models")
    own, unrelated, derived = tiny.pipeline("sd1", 0), tiny.pipeline("sd1", 1), tiny.pipeline("sd1", 0)
    derived.unet.load_state_dict(unrelated.unet.state_dict())
    for name, pipe in (("own", own), ("derived", derived), ("unrelated", unrelated)):
        pipe.save_pretrained(place / name)
    tiny.folder("sdxl", place / "sdxl")
    view = open_model(str(place / "own"), "cpu", "float32")
    make_edit(view, resolve_request(ASK, "tiny"), "uce", {"lamb": 1e-4}).save(place / "uce.safetensors")
    return place


def test_what_it_does_there_is_told_and_the_weights_are_the_others_plus_the_edit(models, tmp_path) -> None:
    """It moves where the text encoder is shared; an unrelated training is the negative control."""
    path, told = models / "uce.safetensors", []
    for name in ("derived", "unrelated"):
        options = ApplyOptions(edit=path, model=str(models / name), out=tmp_path / name, other_base=True)
        assert apply(options, told.append).weights == len(load_edit(path).names)
    assert [line.partition(":")[0] for line in told] == [f"on {models / name}" for name in ("derived", "unrelated")]
    # Its own base's figures follow in brackets, where that is found.
    shared, unrelated = (float(line.partition("residual ")[2].split()[0].rstrip(",")) for line in told)
    assert shared < 0.05
    assert unrelated > 0.9
    assert all("drift" in line for line in told)
    file = "unet/diffusion_pytorch_model.safetensors"
    edit, before, after = load_edit(path), load_file(models / "derived" / file), load_file(tmp_path / "derived" / file)
    for name, w in before.items():
        full = f"unet.{name}"
        wanted = w + edit.delta(full, w) if full in edit.names else w
        assert torch.allclose(after[name], wanted, atol=1e-6)


@torch.no_grad()
def test_figures_are_distances_of_what_text_maps_make(models) -> None:
    """Written out over all maps for an edit of the text encoder, whose states move."""
    view = open_model(str(models / "derived"), "cpu", "float32")
    (last,) = (name for name, _ in view.modules("text_encoder").named_parameters() if "final_layer_norm.weight" in name)
    own = view.reference([f"text_encoder.{last}"])
    change = {name: 0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for name, w in own.items()}
    made = replace(origin_of(load_edit(models / "uce.safetensors")), base_hash=hash_tensors(own))
    edit, texts = DenseEdit(change, origin=made), ("dog", "cat", "sun")

    def read():
        return [torch.cat([row @ w.T for w in view.text_maps().values()]) for row in view.embed(texts)]

    before, found = read(), reading_figures(edit, view)
    with edit.applied(view):
        after = read()
    residual = (before[1] - after[0]).norm() / (before[1] - before[0]).norm()
    assert found["residual"] == pytest.approx(float(residual), rel=1e-4)
    assert found["drift"] == pytest.approx(float((after[2] - before[2]).norm() / before[2].norm()), rel=1e-4)
    assert found["drift"] > 0


def test_what_is_refused(models, tmp_path) -> None:
    path = models / "uce.safetensors"
    with pytest.raises(EditError, match=r"was made for a sd1 model, and .* is one of sdxl"):
        transfer_edit(load_edit(path), path, str(models / "sdxl"))
    lost = LowRankEdit({"unet.nothing.weight": (torch.zeros(2, 1), torch.zeros(1, 2))}, origin=load_edit(path).origin)
    with pytest.raises(EditError, match="lacks weights that it changes"):
        transfer_edit(lost, path, str(models / "derived"))
    with pytest.raises(SettingsError, match="--other-base needs the other model"):
        apply(ApplyOptions(edit=path, out=tmp_path / "x", other_base=True))
    with pytest.raises(EditError, match="give its own base"):
        apply(ApplyOptions(edit=path, model=str(models / "derived"), out=tmp_path / "x"))
