"""Families with a language model as single files, LoRAs and patches: names of committed lists, and tensors of the edit.

`keys/*-transformer.txt` are the names in the published files, with the numbers of blocks in braces: of Z-Image's single
file as ComfyUI's and diffusers' loaders spell them, and of Qwen-Image's, which are those of its diffusers folder; of
FLUX.2's as BFL's code and ComfyUI spell them.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import Flux2Transformer2DModel, QwenImageTransformer2DModel, ZImageTransformer2DModel
from safetensors.torch import load_file

from tests import tiny
from tests.edits.test_export import drawn, networks, parameters, stamped, stock
from unconcept.core.errors import EditError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, Edit, LowRankEdit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.edits.export.lora_keys import comfyui_patch, kohya_name
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.families import families
from unconcept.models.layouts.layout import ModelLayout

NETWORKS = {
    "zimage": ZImageTransformer2DModel,
    "flux2_klein": Flux2Transformer2DModel,
    "flux2": Flux2Transformer2DModel,
    "qwenimage": QwenImageTransformer2DModel,
}
KLEIN = {"guidance_embeds": False}
KLEIN_4B = {**KLEIN, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {**KLEIN, "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
PUBLISHED = {  # by list of names: family, config beside the class's defaults, tensors, elements
    "zimage": ("zimage", {}, 453, 6_154_908_736),
    "flux2-klein-4b": ("flux2_klein", KLEIN_4B, 149, 3_875_544_576),
    "flux2-klein-9b": ("flux2_klein", KLEIN_9B, 201, 9_078_581_248),
    "qwenimage": ("qwenimage", {}, 1933, 20_430_401_088),
    "flux2-dev": ("flux2", {}, 299, 32_223_281_152),
}
MAPS = {  # module in the folder, in the original, with underscores; another map in the folder
    "zimage": ("cap_embedder.1", "cap_embedder.1", "cap_embedder_1", "context_refiner.0.attention.to_k.weight"),
    "qwenimage": ("txt_in", "txt_in", "txt_in", "transformer_blocks.0.attn.add_k_proj.weight"),
    "flux2_klein": ("context_embedder", "txt_in", "txt_in", "transformer_blocks.0.attn.add_k_proj.weight"),
}
MAPS["flux2"] = MAPS["flux2_klein"]
SHARED = {  # names of modules in LoRAs without alphas, by the tensor in the folder
    "zimage": lambda name: name.removesuffix(".weight").replace("transformer.", "diffusion_model.", 1),
    "qwenimage": lambda name: name.removesuffix(".weight"),
    "flux2_klein": lambda name: (
        "diffusion_model." + ("txt_in" if "context_embedder" in name else "double_blocks.0.txt_attn.qkv")
    ),
}
SHARED["flux2"] = SHARED["flux2_klein"]
LISTS = {"zimage": "zimage", "qwenimage": "qwenimage", "flux2_klein": "flux2-klein-4b", "flux2": "flux2-dev"}
DEV = pytest.param("flux2", marks=pytest.mark.slow)  # whose spec has klein's names
EACH = pytest.mark.parametrize("family", [*(family for family in NETWORKS if family != "flux2"), DEV])
# The one whose file fuses projections stands for those whose files change names alone.
EXPORTED = pytest.mark.parametrize(
    "family",
    ["flux2_klein", *(pytest.param(family, marks=pytest.mark.slow) for family in NETWORKS if family != "flux2_klein")],
)


def listed(model: str) -> set[str]:
    found = set()
    for name in (Path(__file__).parent / f"keys/{model}-transformer.txt").read_text().split():
        count = re.search(r"\{0\.\.(\d+)\}", name)
        numbers = range(int(count[1]) + 1) if count else (None,)
        found |= {name if number is None else name.replace(count[0], str(number)) for number in numbers}
    return found


@pytest.mark.parametrize("model", list(PUBLISHED))
def test_single_files_hold_the_names_of_the_real_file(model) -> None:
    """Of the real network, without its weights; each name stands for the same tensors there and back."""
    family, config, tensors, elements = PUBLISHED[model]
    with init_empty_weights():
        net = NETWORKS[family](**config)
    assert sum(p.numel() for p in net.parameters()) == elements
    spec, own = families[family], dict(net.state_dict())
    layout = ModelLayout(spec, 4, spec.denoiser_names(net.config))
    stored = {layout.in_single_file(f"transformer.{name}")[0] for name in own}
    assert stored == listed(model)
    assert len(stored) == tensors
    for prefix in ("", "model.diffusion_model."):
        back = layout.in_folder([f"{prefix}{key}" for key in stored], "transformer")
        assert back.keys() == own.keys()
        assert all(back[name][1] == layout.in_single_file(f"transformer.{name}")[1] for name in own)


@EACH
def test_patches_and_loras_of_the_text_map_go_by_the_names_that_comfyui_takes(family, base) -> None:
    layout, (own, module, flat, _) = ModelLayout.of(base(family)), MAPS[family]
    name = f"transformer.{own}.weight"
    assert comfyui_patch(name, layout)[0] == f"diffusion_model.{module}.diff"
    assert comfyui_patch(f"transformer.{own}.bias", layout)[0] == f"diffusion_model.{module}.diff_b"
    assert kohya_name(name, layout)[0] == f"lora_unet_{flat}"
    assert f"{module}.weight" in listed(LISTS[family])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return cache(lambda family: tiny.folder(family, tmp_path_factory.mktemp(family) / "base"))


def text_edit(folder: Path) -> Edit:
    chosen = resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny")
    return make_edit(open_model(str(folder), "cpu", "float32"), chosen, "uce", {})


def low_rank(folder: Path, family: str) -> Edit:
    there = parameters(folder, "transformer")
    names = [f"transformer.{MAPS[family][0]}.weight", f"transformer.{MAPS[family][3]}"]
    pairs = {}
    for i, name in enumerate(names):
        o, d = there[name].shape
        pairs[name] = drawn(torch.Size((o, 1 + i)), i), drawn(torch.Size((1 + i, d)), i + 99)
    return stamped(LowRankEdit(pairs), folder)


def dense(folder: Path) -> Edit:
    """Every tensor of the transformer."""
    there = parameters(folder, "transformer")
    return stamped(DenseEdit({name: drawn(tensor.shape, i) for i, (name, tensor) in enumerate(there.items())}), folder)


@EXPORTED
def test_diffusers_reads_the_single_file_as_the_baked_folder(family, base, tmp_path) -> None:
    """Tensor by tensor, and our own reader too; what is changed beside the transformer has no place in the file."""
    folder, file = base(family), tmp_path / "m.safetensors"
    edit = dense(folder)
    export_edit(edit, folder, "single-file", file)
    bake(edit, folder, tmp_path / "baked")
    wanted = parameters(tmp_path / "baked", "transformer")
    read_back = NETWORKS[family].from_single_file(str(file), config=str(folder / "transformer"), local_files_only=True)
    found = {f"transformer.{name}": tensor for name, tensor in read_back.state_dict().items()}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    ours, theirs = (
        open_model(str(each), "cpu", "float32", config) for each, config in ((file, folder), (tmp_path / "baked", None))
    )
    assert torch.equal(ours.embed(["a dog"]), theirs.embed(["a dog"]))
    for name, weight in theirs.text_maps().items():
        assert torch.equal(ours.text_maps()[name], weight)
    noise = torch.randn(1, ours.latent_shape[0], 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        ours.sample(["a dog"], noise, 2, 3.0), theirs.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5
    )
    encoder = next(name for name in parameters(folder, "text_encoder") if name.endswith("q_proj.weight"))
    outside = stamped(DenseEdit({encoder: torch.ones_like(parameters(folder, "text_encoder")[encoder])}), folder)
    with pytest.raises(EditError, match="holds the transformer alone, and the edit changes"):
        export_edit(outside, folder, "single-file", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


@EACH
def test_patches_and_loras_added_by_name_are_the_edited_file_and_come_back(family, base, tmp_path) -> None:
    """As ComfyUI adds them: `.diff` to the tensor of that name, a pair to the module with underscores."""
    folder = base(family)
    for edit in (text_edit(folder), low_rank(folder, family)):
        files = {to: tmp_path / f"{edit.hash}-{to}.safetensors" for to in ("single-file", "comfyui", "kohya")}
        for to, file in files.items():
            export_edit(edit, folder, to, file, torch.float32)
        export_edit(edit.scaled(0.0), folder, "single-file", tmp_path / "before.safetensors")
        before, after = load_file(tmp_path / "before.safetensors"), load_file(files["single-file"])
        patched, flat = dict(before), {n.removesuffix(".weight").replace(".", "_"): n for n in before}
        for key, diff in load_file(files["comfyui"]).items():
            name = key.removeprefix("diffusion_model.").replace(".diff", ".weight")
            patched[name] = before[name] + diff
        assert [name for name in after if not torch.equal(patched[name], after[name])] == []
        lora = load_file(files["kohya"])
        for module in {key.partition(".")[0] for key in lora}:
            up, down, alpha = (lora[f"{module}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
            name = flat[module.removeprefix("lora_unet_")]
            torch.testing.assert_close(before[name] + alpha / len(down) * (up @ down), after[name], rtol=0, atol=2e-6)
        there = parameters(folder, "transformer")
        export_edit(edit, folder, "comfyui-lora", tmp_path / f"{edit.hash}.safetensors", torch.float32)
        files["comfyui-lora"] = tmp_path / f"{edit.hash}.safetensors"
        plain = load_file(files["comfyui-lora"])
        assert {key.rpartition(".lora_")[2] for key in plain} == {"A.weight", "B.weight"}
        assert {key.partition(".lora_")[0] for key in plain} == {SHARED[family](name) for name in edit.names}
        for to in ("comfyui", "kohya", "comfyui-lora"):
            back = read_foreign_edit(files[to], folder).edit
            assert {*back.names} >= {*edit.names}
            for name in back.names:
                wanted = edit.delta(name, there[name]) if name in edit.names else torch.zeros_like(there[name])
                torch.testing.assert_close(back.delta(name, there[name]).float(), wanted.float(), rtol=0, atol=2e-6)


@EACH
@pytest.mark.slow
def test_diffusers_loads_the_lora_of_a_text_edit(family, base, tmp_path) -> None:
    folder = base(family)
    edit = text_edit(folder)
    export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    export_edit(edit, folder, "comfyui-lora", tmp_path / "ab.safetensors", torch.float32)
    for file in ("l.safetensors", "ab.safetensors"):
        pipe = stock(folder)
        before = {name: p.clone() for name, p in networks(pipe).items()}
        pipe.load_lora_weights(tmp_path / file, local_files_only=True)
        pipe.fuse_lora(components=["transformer"])
        pipe.unload_lora_weights()
        for name, after in networks(pipe).items():
            wanted = before[name] + edit.delta(name, before[name]) if name in edit.names else before[name]
            torch.testing.assert_close(after, wanted, rtol=0, atol=2e-6)


def test_a_unet_s_edit_has_no_such_lora(tmp_path) -> None:
    folder = tiny.folder("sd1", tmp_path / "sd1")
    with pytest.raises(EditError, match="load: export --to kohya"):
        export_edit(text_edit(folder), folder, "comfyui-lora", tmp_path / "l.safetensors")
    assert not (tmp_path / "l.safetensors").exists()
