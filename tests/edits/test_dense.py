"""Dense edits: the contract of edits, on parameters of any shape."""

import pytest
import torch

from tests import tiny
from unconcept.core.errors import EditError, ModelError
from unconcept.core.hashing import hash_tensors
from unconcept.edits import DenseEdit, EditOrigin, LowRankEdit, load_edit
from unconcept.edits.export.bake import bake
from unconcept.models.views.unet import UNetView

NAMES = (
    "unet.conv_in.weight",
    "unet.conv_in.bias",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
)


def made(view: UNetView, stamped: bool = True) -> DenseEdit:
    rng = torch.Generator().manual_seed(0)
    edit = DenseEdit({name: torch.randn(view.reference([name])[name].shape, generator=rng) for name in NAMES})
    base = hash_tensors(view.reference(edit.names))
    origin = EditOrigin("hand", {}, ("cat",), ("",), (), "object", view.family, view.name, base, "0")
    return edit.stamped(origin) if stamped else edit


def weights(view: UNetView) -> str:
    return hash_tensors(dict(view.modules("denoiser").named_parameters()))


def test_applied_adds_and_left_is_bitwise_the_same() -> None:
    view = tiny.view("sd1", torch.float32)
    edit, before, own = made(view), weights(view), view.reference(NAMES)
    own = {name: tensor.detach().clone() for name, tensor in own.items()}
    with edit.applied(view):
        for name in NAMES:
            live = view.modules("unet").get_parameter(name.removeprefix("unet."))
            assert torch.equal(live, own[name] + edit.delta(name, own[name]))
        assert torch.equal(view.reference(NAMES)[NAMES[0]], own[NAMES[0]])
    assert weights(view) == before


def test_save_and_load_is_the_same_edit(tmp_path) -> None:
    view = tiny.view("sd1", torch.float32)
    edit = made(view)
    edit.save(tmp_path / "edit.safetensors")
    loaded = load_edit(tmp_path / "edit.safetensors")
    assert isinstance(loaded, DenseEdit)
    assert (loaded.hash, loaded.origin, loaded.names) == (edit.hash, edit.origin, edit.names)
    assert loaded.parameters == sum(edit.deltas[name].numel() for name in NAMES)


def test_strength_scales_and_zero_is_the_identity() -> None:
    view = tiny.view("sd1", torch.float32)
    edit, before = made(view), weights(view)
    assert torch.equal(edit.scaled(2.0).deltas[NAMES[0]], 2 * edit.deltas[NAMES[0]])
    with edit.scaled(0.0).applied(view):
        assert weights(view) == before


def test_a_low_rank_edit_written_out_is_the_same_edit() -> None:
    view = tiny.view("sd1", torch.float32)
    name = NAMES[2]
    o, d = view.reference([name])[name].shape
    low = LowRankEdit({name: (torch.randn(o, 2), torch.randn(2, d))})
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = []
    for edit in (low, DenseEdit({name: low.delta(name, view.reference([name])[name])})):
        with edit.applied(view):
            pictures.append(view.sample(["a cat"], noise, 2, 3.0))
    assert torch.equal(*pictures)


def test_baked_folder_holds_the_sum(tmp_path) -> None:
    from safetensors.torch import load_file

    tiny.folder("sd1", tmp_path / "base")
    view = UNetView.from_pipeline(tiny.pipeline("sd1"), "base")
    edit = made(view)
    bake(edit, tmp_path / "base", tmp_path / "baked")
    before, after = (
        load_file(tmp_path / name / "unet/diffusion_pytorch_model.safetensors") for name in ("base", "baked")
    )
    for name, tensor in before.items():
        full = f"unet.{name}"
        assert torch.equal(after[name], tensor + edit.delta(full, tensor) if full in edit.names else tensor)


def test_another_shape_another_base_another_family_are_refused() -> None:
    view = tiny.view("sd1", torch.float32)
    with pytest.raises(EditError, match="shape"), DenseEdit({NAMES[0]: torch.ones(2, 2)}).applied(view):
        pass
    with (
        pytest.raises(EditError, match="made for"),
        made(view).applied(UNetView.from_pipeline(tiny.pipeline("sd1", seed=1))),
    ):
        pass
    with (
        pytest.raises(ModelError, match="another family"),
        DenseEdit({"unet.nowhere.weight": torch.ones(2)}).applied(view),
    ):
        pass
