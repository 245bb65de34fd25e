"""The ComfyUI nodes against a stand-in of its patchers: weights and predictions are those of the edited model."""

import ast
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.integrations.patcher import Patcher
from unconcept.core import Request
from unconcept.edits import DenseEdit, LowRankEdit
from unconcept.edits.export.lora_keys import comfyui_name
from unconcept.edits.origin import origin_for
from unconcept.methods.adavd import AdaVD
from unconcept.methods.uce import UCE
from unconcept.models.layouts.layout import ModelLayout

ROOT = Path(__file__).parents[2]
KEYS = ROOT / "tests/edits/keys"
REQUEST = Request(("dog",), ("cat",), ("sun",))


@cache
def package() -> ModuleType:
    """The custom node package, as ComfyUI loads it: by its folder."""
    place = ROOT / "integrations/comfyui"
    spec = importlib.util.spec_from_file_location(
        "unconcept_comfyui", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["unconcept_comfyui"] = module
    spec.loader.exec_module(module)
    return module


@cache
def toy(family: str):
    """A view, a patcher of its denoiser in ComfyUI's names, and the table of LoRA names that ComfyUI makes of it."""
    view = tiny.view(family, torch.float32)
    spec = view.spec
    layout = ModelLayout(spec, 2, spec.denoiser_names(view.checkpoint.config(spec.denoiser)))
    state: dict[str, torch.Tensor] = {}
    keys: dict[str, object] = {}
    for name, weight in view.modules("denoiser").named_parameters():
        key, laid = comfyui_name(f"{spec.denoiser}.{name}", layout)
        _, count, parts = laid.rows
        rows = len(weight) * parts // count
        state.setdefault(key, torch.zeros(rows, *weight.shape[1:])).narrow(0, *laid.span(rows)).copy_(weight.detach())
        module = name.removesuffix(".weight")
        known = f"lora_unet_{module.replace('.', '_')}" if spec.denoiser == "unet" else f"transformer.{module}"
        keys[known] = key if parts == 1 else (key, (0, *laid.span(rows)))
    return view, Patcher(state), keys


def saved(view, edit, folder: Path) -> str:
    """Save an edit as methods' edits are saved."""
    edit.stamped(origin_for(edit, view, REQUEST, "uce", {})).save(folder / "edit.safetensors")
    return "edit.safetensors"


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """ComfyUI's own modules that the nodes import while they run."""
    paths, lora = ModuleType("folder_paths"), ModuleType("comfy.lora")
    folder = tmp_path / "models/unconcept"
    folder.mkdir(parents=True)
    paths.models_dir = str(tmp_path / "models")
    paths.add_model_folder_path = lambda name, place: None
    paths.get_folder_paths = lambda name: [str(folder)]
    paths.get_filename_list = lambda name: sorted(path.name for path in folder.iterdir())
    lora.model_lora_keys_unet = lambda model, known: {**known, **model.keys}
    lora.model_lora_keys_clip = lambda model, known: {**known, **model.keys}
    root = ModuleType("comfy")
    root.lora = lora
    for name, module in {"folder_paths": paths, "comfy": root, "comfy.lora": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return folder


def applied(name: str, patcher: Patcher, keys, strength: float = 1.0, clip=None):
    """Run the two nodes as ComfyUI does, by their names and functions."""
    nodes = package().NODE_CLASS_MAPPINGS
    load, apply = nodes["UnconceptLoadEdit"](), nodes["UnconceptApplyEdit"]()
    assert name in load.INPUT_TYPES()["required"]["edit_name"][0]
    (edit,) = getattr(load, load.FUNCTION)(name)
    patcher.model.keys = keys
    return getattr(apply, apply.FUNCTION)(patcher, edit, strength, clip)


@pytest.mark.parametrize(
    "family", ["sd1", "sdxl", "sd3", "flux", "chroma", "zimage", "flux2_klein", "flux2", "qwenimage"]
)
def test_patched_weights_are_those_of_the_edited_model(family, comfy) -> None:
    """Low rank over text maps and a map of the picture, which in joint transformers is a slice of a fused one."""
    view, patcher, keys = toy(family)
    part = view.spec.denoiser
    names = [name for name, w in view.modules("denoiser").named_parameters() if w.ndim == 2 and ".att" in name]
    random = torch.Generator().manual_seed(0)
    own = view.reference([f"{part}.{name}" for name in names])
    pairs = {
        name: (torch.randn(len(w), 2, generator=random), torch.randn(2, w.shape[1], generator=random))
        for name, w in own.items()
    }
    edit = LowRankEdit(pairs)
    (model, clip) = applied(saved(view, edit, comfy), patcher, keys, 0.5)
    assert clip is None
    assert patcher.patches == {}
    layout = ModelLayout(view.spec, 2, view.spec.denoiser_names(view.checkpoint.config(part)))
    for name, w in own.items():
        key, laid = comfyui_name(name, layout)
        assert torch.allclose(laid.unpack(model.weight(key)), w + 0.5 * edit.delta(name, w), atol=1e-5)
    if part == "transformer":  # Some models' tables have the other prefix alone.
        others = {name.replace("transformer.", "diffusion_model.", 1): place for name, place in keys.items()}
        assert applied("edit.safetensors", patcher, others, 0.5)[0].patches.keys() == model.patches.keys()


@pytest.mark.parametrize("family", ["sd1", "sdxl", "chroma", "flux2_klein", "flux2"])
def test_a_map_on_the_text_changes_texts_and_no_weight(family, comfy) -> None:
    """Around another node's wrapper, which still runs."""
    view, patcher, keys = toy(family)
    edit = UCE().erase(view, REQUEST)
    before = patcher.clone()
    seen: list[str] = []

    def other(apply_model, given):
        seen.append("other")
        return apply_model(given["input"], given["timestep"], **given["c"])

    before.set_model_unet_function_wrapper(other)
    model, _ = applied(saved(view, edit, comfy), before, keys, 0.5)
    states = view.embed(["a dog"], at="all")
    weights = view.text_maps()

    def read(x, t, c_crossattn, y):
        return torch.cat([c_crossattn @ w.T for w in weights.values()], -1)

    assert model.patches == {}
    wanted = torch.cat([states @ (w + 0.5 * edit.delta(name, w)).T for name, w in weights.items()], -1)
    assert torch.allclose(model.predict(read, states), wanted, atol=1e-4)
    assert seen == ["other"]
    assert torch.allclose(before.predict(read, states), read(0, 0, states, 1))
    assert applied("edit.safetensors", before, keys, 0.0)[0] is before


@pytest.mark.parametrize(("family", "place"), [("zimage", "cap_embedder.1"), ("qwenimage", "txt_in")])
def test_a_map_behind_a_norm_is_put_before_its_layer(family, place, comfy) -> None:
    """There the denoiser's call is given states before the norm. No weight changes; a second edit finds the first."""
    view, patcher, keys = toy(family)
    patcher.model.diffusion_model = view.modules("denoiser")
    edit = UCE().erase(view, REQUEST)
    file, layer = saved(view, edit, comfy), view.modules("denoiser").get_submodule(place)
    at = f"diffusion_model.{place}.forward"
    model, _ = applied(file, patcher, keys, 0.5)
    assert list(model.object_patches) == [at]
    assert (model.patches, patcher.object_patches) == ({}, {})
    states = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    change = states @ edit.delta(f"transformer.{place}.weight", layer.weight.detach()).T
    assert torch.allclose(model.get_model_object(at)(states), layer(states) + 0.5 * change, atol=1e-5)
    assert change.abs().max() > 1e-3
    mapped = states + 0.5 * (states @ edit.y.T) @ edit.x
    twice, _ = applied(file, model, keys, 0.5)
    assert torch.allclose(twice.get_model_object(at)(states), model.get_model_object(at)(mapped), atol=1e-5)
    with pytest.raises(ValueError, match=r"maps texts of width \d+, and this model's have 2"):
        model.get_model_object(at)(states[:, :2])
    patcher.model.diffusion_model = torch.nn.Module()
    with pytest.raises(ValueError, match=f"is for {family}, and this model has no {at}"):
        applied(file, patcher, keys)


def test_text_encoders_are_patched_through_clip(comfy) -> None:
    view, patcher, keys = toy("sd1")
    name = next(n for n, w in view.modules("text_encoder").named_parameters() if n.endswith("mlp.fc1.weight"))
    weight = view.reference([f"text_encoder.{name}"])[f"text_encoder.{name}"]
    edit = DenseEdit({f"text_encoder.{name}": torch.ones_like(weight)})
    file, key = saved(view, edit, comfy), "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    clip = Patcher({key: weight.clone()})
    clip.cond_stage_model.keys = {"lora_te_text_model_encoder_layers_0_mlp_fc1": key}
    model, edited = applied(file, patcher, keys, 1.0, clip)
    assert model is patcher
    assert torch.allclose(edited.weight(key), weight + 1)
    with pytest.raises(ValueError, match="changes text encoders too: connect CLIP"):
        applied(file, patcher, keys)


def test_names_are_those_of_public_lists() -> None:
    """Every text map of SD 1.x and SDXL has a name that kohya's LoRAs have, and those of joint transformers a key."""
    names = sys.modules[f"{package().__name__}.patches"].lora_names
    known = set((KEYS / "sd1-kohya.txt").read_text().split())
    blocks = (
        [(f"down_blocks.{i}", 2) for i in range(3)] + [("mid_block", 1)] + [(f"up_blocks.{i}", 3) for i in (1, 2, 3)]
    )
    maps = [
        f"unet.{block}.attentions.{i}.transformer_blocks.0.attn2.to_{letter}.weight"
        for block, count in blocks
        for i in range(count)
        for letter in "kv"
    ]
    assert len(maps) == 32
    assert {next(iter(names(name))) for name in maps} <= known
    assert "context_embedder.weight" in (KEYS / "sd3-transformer.txt").read_text().split()
    assert "txt_in.weight" in (KEYS / "flux-transformer.txt").read_text().split()


def test_bad_files_are_one_line(comfy, tmp_path) -> None:
    view = toy("sd1")[0]
    edit = UCE().erase(view, REQUEST)
    save_file({"x": torch.ones(1)}, comfy / "lora.safetensors")
    (comfy / "torn.safetensors").write_bytes(b"no tensors")
    (comfy / "pickle.ckpt").write_bytes(b"no tensors")
    save_file({"x": torch.ones(1)}, tmp_path / "outside.safetensors")
    (comfy / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    saved(view, edit, comfy)
    steering = AdaVD().erase(view, REQUEST)
    steering.stamped(origin_for(steering, view, REQUEST, "adavd", {})).save(comfy / "steering.safetensors")
    load = package().NODE_CLASS_MAPPINGS["UnconceptLoadEdit"]()
    names = load.INPUT_TYPES()["required"]["edit_name"][0]
    assert "pickle.ckpt" not in names
    for name, said in (
        ("lora.safetensors", "is no edit of unconcept"),
        ("torn.safetensors", "the file is damaged"),
        ("../outside.safetensors", "is no .safetensors file in"),
        (str(tmp_path / "outside.safetensors"), "is no .safetensors file in"),
        ("link.safetensors", "is no .safetensors file in"),
        ("pickle.ckpt", "is no .safetensors file in"),
        ("steering.safetensors", "acts while pictures are drawn"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            load.load(name)
        assert len(str(error.value).splitlines()) == 1


def test_a_sister_model_is_one_line(comfy) -> None:
    """One whose weights have other names, another number of text maps, or texts of another width."""
    view, sister, keys = toy("sd1")[0], *toy("sd3")[1:]
    low_rank = LowRankEdit({"unet.mid_block.nothing.weight": (torch.ones(2, 1), torch.ones(1, 2))})
    low_rank = low_rank.stamped(origin_for(UCE().erase(view, REQUEST), view, REQUEST, "uce", {}))
    low_rank.save(comfy / "pairs.safetensors")
    text_map = saved(view, UCE().erase(view, REQUEST), comfy)
    for name in ("pairs.safetensors", text_map):
        with pytest.raises(ValueError, match=r"is for sd1.* this model has .*: load a model of its own") as error:
            applied(name, sister, keys)
        assert len(str(error.value).splitlines()) == 1
    wide, own = toy("sd1")[1:]
    model, _ = applied(text_map, wide, own)
    with pytest.raises(ValueError, match="maps texts of width 32, and this model's have 64"):
        model.predict(lambda *_, **__: None, torch.zeros(1, 24, 64))


def test_it_stands_alone() -> None:
    """It imports torch, safetensors and ComfyUI's own modules, nothing of this library, and unpickles nothing."""
    allowed = {
        "torch",
        "safetensors",
        "folder_paths",
        "comfy",
        "json",
        "os",
        "pathlib",
        "typing",
        "dataclasses",
        "collections",
        "math",
    }
    for path in sorted((ROOT / "integrations/comfyui").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed
            assert not (
                isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) != "json"
            )
