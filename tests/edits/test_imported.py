"""LoRA erasers made elsewhere become edits: scale, shapes, spellings, refusals."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import base, dense, low_rank, parameters, stock, text_map  # noqa: F401
from unconcept.core.errors import EditError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, LowRankEdit, load_edit
from unconcept.edits.export.export import export_edit
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.jobs.import_edit import import_edit
from unconcept.models import open_model

K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
Q = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return cache(lambda family: tiny.folder(family, tmp_path_factory.mktemp(family) / "base"))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def only(edit: LowRankEdit | DenseEdit, folder: Path) -> tuple[str, torch.Tensor]:
    (name,) = edit.names
    return name, edit.delta(name, parameters(folder, name.partition(".")[0])[name])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("to", "file"), [("kohya", "l.safetensors"), ("peft", "p"), ("comfyui", "c.safetensors")])
def test_our_own_exports_come_back(family, to, file, base, tmp_path) -> None:  # noqa: F811
    """Of several networks, ranks that differ, convolutions, biases."""
    folder = base(family)
    edit = dense(folder) if to == "comfyui" else low_rank(folder)
    export_edit(edit, folder, to, tmp_path / file, torch.float32)
    found, there = (
        read_foreign_edit(tmp_path / file, folder).edit,
        parameters(folder, "unet", "text_encoder", "text_encoder_2"),
    )
    assert found.names == edit.names
    assert isinstance(found, DenseEdit) == (to == "comfyui")
    assert all(
        torch.allclose(found.delta(name, there[name]), edit.delta(name, there[name]), atol=1e-6) for name in edit.names
    )


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("lora_unet_" + K.replace(".", "_"), f"unet.{K}"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", f"unet.{K}"),
        ("lora_te_" + Q.replace(".", "_"), "text_encoder.encoder.layers.0.self_attn.q_proj"),
        ("lora_te1_" + Q.replace(".", "_"), "text_encoder.encoder.layers.0.self_attn.q_proj"),
    ],
)
def test_kohyas_alpha_over_rank(stem, name, tiny_folder, tmp_path) -> None:
    """SPM, LECO and kohya's trainer: W' = W + alpha / rank * up @ down. Without alpha the factor is 1."""
    folder = tiny_folder("sd1")
    shape = parameters(folder, name.partition(".")[0])[f"{name}.weight"].shape
    up, down = drawn(shape[0], 4), drawn(4, shape[1], seed=1)
    pair = {f"{stem}.lora_up.weight": up.half(), f"{stem}.lora_down.weight": down.half()}
    for alpha, factor in ((torch.tensor(1.0), 0.25), (torch.tensor(8).half(), 2.0), (None, 1.0)):
        save_file({**pair, f"{stem}.alpha": alpha} if alpha is not None else pair, tmp_path / "l.safetensors")
        edit = read_foreign_edit(tmp_path / "l.safetensors", folder).edit
        found, delta = only(edit, folder)
        assert found == f"{name}.weight"
        assert torch.allclose(delta, factor * up.half().float() @ down.half().float(), atol=1e-5)
        assert {t.dtype for t in edit.tensors().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("keys", "module"),
    [
        ((f"unet.{K}.lora_B.weight", f"unet.{K}.lora_A.weight"), K),
        ((f"unet.{K}.lora.up.weight", f"unet.{K}.lora.down.weight"), K),
        (
            (
                f"unet.{K.replace('.to_k', '.processor.to_k_lora')}.up.weight",
                f"unet.{K.replace('.to_k', '.processor.to_k_lora')}.down.weight",
            ),
            K,
        ),
        (
            (
                f"unet.{OUT.replace('.to_out.0', '.processor.to_out_lora')}.up.weight",
                f"unet.{OUT.replace('.to_out.0', '.processor.to_out_lora')}.down.weight",
            ),
            OUT,
        ),
        ((f"base_model.model.{OUT}.lora_B.default.weight", f"base_model.model.{OUT}.lora_A.default.weight"), OUT),
        (
            (
                "text_encoder." + Q + ".lora_linear_layer.up.weight",
                "text_encoder." + Q + ".lora_linear_layer.down.weight",
            ),
            None,
        ),
        (
            (
                f"text_encoder.{Q.replace('q_proj', 'to_q_lora')}.up.weight",
                f"text_encoder.{Q.replace('q_proj', 'to_q_lora')}.down.weight",
            ),
            None,
        ),
    ],
)
def test_spellings_of_diffusers_old_and_new(keys, module, tiny_folder, tmp_path) -> None:
    folder = tiny_folder("sd1")
    wanted = f"unet.{module}.weight" if module else "text_encoder.encoder.layers.0.self_attn.q_proj.weight"
    o, d = parameters(folder, wanted.partition(".")[0])[wanted].shape
    up, down = drawn(o, 2), drawn(2, d, seed=1)
    save_file({keys[0]: up, keys[1]: down}, tmp_path / "l.safetensors")
    found, delta = only(read_foreign_edit(tmp_path / "l.safetensors", folder).edit, folder)
    assert found == wanted
    assert torch.allclose(delta, up @ down, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_saved_by_diffusers_is_read_as_diffusers_runs_it(family, rslora, tiny_folder, tmp_path) -> None:
    """Real adapters with their own alphas, convolutions included: the weights are those that PEFT merges."""
    folder = tiny_folder(family)
    pipe = stock(folder)
    targets = ["to_k", "to_out.0", "conv1", "proj_in", "time_emb_proj"]
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        init_lora_weights=False,
        rank_pattern={"conv1": 3},
        alpha_pattern={"conv1": 5},
        use_rslora=rslora,
    )
    torch.manual_seed(0)
    pipe.unet.add_adapter(config)
    layers = {k: v.contiguous() for k, v in get_peft_model_state_dict(pipe.unet).items()}
    type(pipe).save_lora_weights(
        tmp_path / "l", unet_lora_layers=layers, unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict()
    )
    edit = read_foreign_edit(tmp_path / "l/pytorch_lora_weights.safetensors", folder).edit
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    before, merged = (
        parameters(folder, "unet"),
        {f"unet.{name}": p.detach() for name, p in pipe.unet.named_parameters()},
    )
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert set(edit.names) == changed
    assert all(
        torch.allclose(edit.delta(name, before[name]), merged[name] - before[name], atol=1e-5) for name in changed
    )
    assert any(before[name].ndim == 4 and before[name].shape[-1] == 3 for name in changed)


def test_an_imported_eraser_is_stamped_drawn_with_and_exported_again(base, tmp_path) -> None:  # noqa: F811
    folder = base("sd1")
    made = text_map(folder)
    export_edit(made, folder, "kohya", tmp_path / "esd.safetensors", torch.float32)
    edit = import_edit(
        tmp_path / "esd.safetensors", str(folder), RequestSpec(("dog face",), ("goat",), ("cat",)), "esd"
    ).edit
    assert (edit.origin.method, edit.origin.targets, edit.origin.anchors, edit.origin.retain) == (
        "esd",
        ("dog face",),
        ("goat",),
        ("cat",),
    )
    assert edit.origin.settings["file"] == "esd.safetensors"
    assert (edit.origin.base_hash, edit.origin.licence, edit.origin.libraries) == (
        made.origin.base_hash,
        "openrail++",
        made.origin.libraries,
    )
    assert edit.origin.report["residual"] < 0.9
    edit.save(tmp_path / "edit.safetensors")
    loaded, view = load_edit(tmp_path / "edit.safetensors"), open_model(str(folder), "cpu", "float32")
    noise, pictures = drawn(1, 4, 8, 8), []
    for one in (loaded, made):
        with one.applied(view):
            pictures.append(view.sample(["a dog face"], noise, 2, 3.0))
    assert torch.allclose(*pictures, atol=1e-4)
    export_edit(loaded, folder, "peft", tmp_path / "again")
    assert read_foreign_edit(tmp_path / "again", folder).edit.names == made.names


def test_an_eraser_of_the_text_encoder_says_nothing_of_text_maps(tiny_folder, tmp_path) -> None:
    stem = "lora_te_" + Q.replace(".", "_")
    save_file(
        {f"{stem}.lora_up.weight": drawn(32, 1), f"{stem}.lora_down.weight": drawn(1, 32)}, tmp_path / "l.safetensors"
    )
    edit = import_edit(tmp_path / "l.safetensors", str(tiny_folder("sd1")), RequestSpec(("dog",)), "imported").edit
    assert "residual" not in edit.origin.report


def test_bad_files_are_refused_in_one_line(base, tmp_path) -> None:  # noqa: F811
    folder, file = base("sd1"), tmp_path / "l.safetensors"
    stem = "lora_unet_" + K.replace(".", "_")
    up, down = f"{stem}.lora_up.weight", f"{stem}.lora_down.weight"
    pair = {up: torch.ones(8, 2), down: torch.ones(2, 32)}
    export_edit(low_rank(base("sdxl")), base("sdxl"), "kohya", tmp_path / "xl.safetensors")
    for tensors, said in (
        (load_file(tmp_path / "xl.safetensors"), "does not fit the model's|another family"),
        (
            {
                **pair,
                **{f"lora_unet_down_blocks_7_to_k.lora_{half}.weight": torch.ones(1, 1) for half in ("up", "down")},
            },
            "1 of its 2 modules are not in base, the first is lora_unet_down_blocks_7_to_k",
        ),
        ({**pair, f"{stem}.dora_scale": torch.ones(8)}, "dora_scale belongs to DoRA; only plain LoRA"),
        (
            {**pair, f"{stem}.lora_mid.weight": torch.ones(2, 2, 3, 3)},
            "belongs to a LoRA with Tucker factors",
        ),
        ({up: pair[up]}, "has half of a pair"),
        (
            {up: pair[up], down: torch.ones(2, 31)},
            r"shapes \(8, 2\) and \(2, 31\), which does not fit the model's \(8, 32\)",
        ),
        ({up: torch.ones(8, 3), down: pair[down]}, "does not fit the model's"),
        ({up: pair[up], down: torch.full((2, 32), float("nan"))}, "holds NaN or infinity"),
        ({f"{stem}.diff": torch.ones(8, 31)}, r"\.diff has shape \(8, 31\), but the model's weight has \(8, 32\)"),
        ({f"{stem}.diff_b": torch.ones(8)}, "the model's bias has None"),
        (
            {**pair, f"unet.{K}.lora_A.weight": torch.ones(2, 32), f"unet.{K}.lora_B.weight": torch.ones(8, 2)},
            "under two names",
        ),
        ({}, "holds no LoRA"),
    ):
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
        with pytest.raises(EditError, match=said) as raised:
            read_foreign_edit(file, folder)
        assert "\n" not in str(raised.value)
        assert str(file) in str(raised.value)


def test_what_cannot_be_opened_is_refused_in_one_line(base, tmp_path) -> None:  # noqa: F811
    folder, file = base("sd1"), tmp_path / "l.safetensors"
    save_file({"a": torch.ones(8, 32)}, file)
    file.write_bytes(file.read_bytes()[:-50])
    (tmp_path / "l.pt").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for path, said in (
        (file, "cut short"),
        (tmp_path / "l.pt", "can run code"),
        (tmp_path / "no.safetensors", "missing"),
        (tmp_path / "folder", "no adapter_model"),
    ):
        with pytest.raises(EditError, match=said):
            read_foreign_edit(path, folder)


def test_peft_adapters_that_are_no_plain_lora_are_refused(base, tmp_path) -> None:  # noqa: F811
    export_edit(text_map(base("sd1")), base("sd1"), "peft", tmp_path / "p")
    config = json.loads((tmp_path / "p/adapter_config.json").read_text())
    for change in ({"use_dora": True}, {"peft_type": "LOHA"}):
        (tmp_path / "p/adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(EditError, match="only plain LoRA"):
            read_foreign_edit(tmp_path / "p", base("sd1"))


@pytest.mark.parametrize(
    ("told", "family"),
    [({"ss_base_model_version": "sd_v1"}, "sd1"), ({"ss_base_model_version": "sd_v2_v"}, "sd2"), ({}, None)],
)
def test_a_header_that_names_another_family(told, family, tiny_folder, tmp_path) -> None:
    """Self-attentions of SD 1.x and 2.x have the same names and shapes: nothing but the header tells them apart."""
    module = "lora_unet_" + OUT.replace(".", "_")
    rows = parameters(tiny_folder("sd1"), "unet")[f"unet.{OUT}.weight"].shape[0]
    pair = {f"{module}.lora_up.weight": drawn(rows, 2), f"{module}.lora_down.weight": drawn(2, rows, seed=1)}
    save_file(pair, tmp_path / "l.safetensors", metadata=told or None)
    for model in ("sd1", "sd2"):
        if family in (None, model):
            assert read_foreign_edit(tmp_path / "l.safetensors", tiny_folder(model)).edit.names == (
                f"unet.{OUT}.weight",
            )
        else:
            with pytest.raises(
                EditError,
                match=f"its header says that it is for {family} models, base is {model}: it is for another family",
            ):
                read_foreign_edit(tmp_path / "l.safetensors", tiny_folder(model))
