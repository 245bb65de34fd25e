"""Exports are loaded by the real tools: weights tensor by tensor, then pictures."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests import tiny, toy_text
from tests.fast_cases import fast_among
from unconcept.core.errors import EditError, ModelError, NumericsError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, Edit, EditOrigin, LowRankEdit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.layouts.layout import ModelLayout
from unconcept.models.views.unet import UNetView

FAMILIES = ("sd1", "sd2", "sdxl")
SINGLE = {"sdxl": StableDiffusionXLPipeline}
TOLERANCE = {torch.float32: 3e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of a LoRA, relative to the edit


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model on disk. SDXL's encoders differ in width: by it diffusers tells them apart in a single file."""

    @cache
    def of(family: str) -> Path:
        pipe, folder = tiny.pipeline(family), tmp_path_factory.mktemp(family) / "base"
        if family == "sdxl":
            first, second = pipe.tokenizer, pipe.tokenizer_2
            net = tiny.unet(
                80,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=48 + 48,
            )
            encoders = (
                CLIPTextModel(toy_text.text_config(first, 32, "quick_gelu")),
                CLIPTextModelWithProjection(toy_text.text_config(second, 48, "gelu")),
            )
            pipe = StableDiffusionXLPipeline(
                pipe.vae, *encoders, first, second, net, pipe.scheduler, add_watermarker=False
            )
        pipe.save_pretrained(folder)
        (folder / "README.md").write_text("---\nlicense: openrail++\n---\n# tiny\n")
        return folder

    return of


def stamped(edit: Edit, folder: Path) -> Edit:
    view = open_model(str(folder), "cpu", "float32")
    return edit.stamped(
        EditOrigin(
            "hand",
            {"lamb": 0.5},
            ("cat",),
            ("",),
            ("dog",),
            "object",
            view.family,
            "tiny",
            hash_tensors(view.reference(edit.names)),
            "0",
        )
    )


def drawn(shape: torch.Size, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(folder: Path, *parts: str) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in parts
        for file in (folder / part).glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def matrices(folder: Path) -> list[str]:
    """Linear maps and convolutions of the UNet and the first text encoder, one of each kind."""
    ends = (
        "attn2.to_k.weight",
        "attn1.to_out.0.weight",
        "ff.net.0.proj.weight",
        "proj_in.weight",
        "resnets.0.conv1.weight",
        "time_emb_proj.weight",
    )
    unet, texts = parameters(folder, "unet"), parameters(folder, "text_encoder")
    found = [
        next(n for n in unet if n.endswith(end))
        for end in (*ends, "unet.conv_in.weight", "time_embedding.linear_1.weight")
    ]
    return [
        *found,
        *(
            next(n for n in texts if n.endswith(end))
            for end in ("q_proj.weight", "self_attn.out_proj.weight", "fc1.weight")
        ),
    ]


def text_map(folder: Path) -> Edit:
    chosen = resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny")
    return make_edit(open_model(str(folder), "cpu", "float32"), chosen, "uce", {})


def low_rank(folder: Path) -> Edit:
    """Ranks differ from module to module."""
    pairs, there = {}, parameters(folder, "unet", "text_encoder")
    for i, name in enumerate(matrices(folder)):
        shape = there[name].flatten(1).shape
        pairs[name] = drawn(torch.Size((shape[0], 1 + i % 3)), i), drawn(torch.Size((1 + i % 3, shape[1])), i + 99)
    return stamped(LowRankEdit(pairs), folder)


def dense(folder: Path) -> Edit:
    """Matrices, convolutions, biases and norms of every part."""
    parts = sorted(path.name for path in folder.iterdir() if path.name.startswith(("unet", "text_encoder")))
    there = parameters(folder, *parts)
    names = [
        *matrices(folder),
        "unet.conv_in.bias",
        "unet.conv_norm_out.weight",
        "unet.mid_block.resnets.1.conv2.weight",
    ]
    for part in parts[:-1]:
        names += [
            name
            for name in there
            if name.startswith(f"{part}.")
            and name.endswith(("layers.1.self_attn.k_proj.bias", "final_layer_norm.bias"))
        ]
    return stamped(
        DenseEdit({name: drawn(there[name].shape, i) for i, name in enumerate(dict.fromkeys(names))}), folder
    )


def picture(pipe: DiffusionPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return UNetView.from_pipeline(pipe.to(dtype=torch.float32)).sample(["a dog face"], noise, 2, 3.0)


def stock(folder: Path) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True)


def networks(pipe: DiffusionPipeline) -> dict[str, torch.Tensor]:
    modules = {name: module for name, module in pipe.components.items() if isinstance(module, torch.nn.Module)}
    return {f"{part}.{name}": p.detach() for part, module in modules.items() for name, p in module.named_parameters()}


@pytest.mark.parametrize(("family", "make"), [("sd1", text_map), ("sd2", dense), ("sdxl", dense)])
def test_diffusers_folder(family, make, base, tmp_path) -> None:
    """Each weight is rounded once; what the edit leaves alone and what is no weight is as it was."""
    folder = base(family)
    edit = make(folder)
    export_edit(edit, folder, "diffusers", tmp_path / "own")
    export_edit(edit, folder, "diffusers", tmp_path / "half", torch.float16)
    bake(edit, folder, tmp_path / "baked")
    own, baked = networks(stock(tmp_path / "own")), networks(stock(tmp_path / "baked"))
    assert all(torch.equal(own[name], baked[name]) for name in baked)
    before = parameters(folder, "unet", "text_encoder", "vae")
    for name, tensor in parameters(tmp_path / "half", "unet", "text_encoder", "vae").items():
        wanted = before[name] + edit.delta(name, before[name]) if name in edit.names else before[name]
        assert torch.equal(tensor, wanted.half())
    assert picture(stock(tmp_path / "half")).isfinite().all()
    assert json.loads((tmp_path / "half/unconcept.json").read_text())["unconcept.base_hash"] == edit.origin.base_hash


@pytest.mark.parametrize("family", FAMILIES)
def test_single_file(family, base, tmp_path) -> None:
    """diffusers reads it, with the folder's config, as the very pipeline of the baked folder."""
    folder = base(family)
    edit = dense(folder)
    export_edit(edit, folder, "single-file", tmp_path / "m.safetensors")
    bake(edit, folder, tmp_path / "baked")
    kind = SINGLE.get(family, StableDiffusionPipeline)
    single = kind.from_single_file(str(tmp_path / "m.safetensors"), config=str(folder), local_files_only=True)
    found, wanted = networks(single), networks(stock(tmp_path / "baked"))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    # The weights' bits are the same; diffusers maps the files, and its kernels round by where in them a tensor begins.
    assert torch.allclose(picture(single), picture(stock(tmp_path / "baked")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_single_file_in_another_dtype(dtype, base, tmp_path) -> None:
    export_edit(dense(base("sdxl")), base("sdxl"), "single-file", tmp_path / "m.safetensors", dtype)
    assert {t.dtype for t in load_file(tmp_path / "m.safetensors").values()} == {dtype}


LORAS = [
    *((make, family, torch.float16) for make in (text_map, low_rank) for family in FAMILIES),
    *((make, "sd1", dtype) for make in (text_map, low_rank) for dtype in (torch.float32, torch.bfloat16)),
]


# Each family, each dtype and both kinds of edits; what makes a LoRA of an edit knows neither its family nor its dtype.
@pytest.mark.parametrize(
    ("make", "family", "dtype"),
    fast_among(
        LORAS,
        [
            (text_map, "sd1", torch.float32),
            (text_map, "sdxl", torch.float16),
            (low_rank, "sd1", torch.bfloat16),
            (low_rank, "sd2", torch.float16),
            (low_rank, "sdxl", torch.float16),
        ],
    ),
)
def test_kohya_lora_in_diffusers(family, dtype, make, base, tmp_path) -> None:
    """Fused, every weight is the edited one but for the dtype's rounding, and no other
    has moved; the pictures agree.
    """
    folder = base(family)
    edit = make(folder)
    done = export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", dtype)
    assert done.error is not None
    assert done.error < TOLERANCE[dtype]
    pipe = stock(folder)
    before, plain = {name: p.clone() for name, p in networks(pipe).items()}, picture(pipe)
    pipe.load_lora_weights(tmp_path / "l.safetensors", local_files_only=True)
    pipe.fuse_lora(
        components=[part for part in ("unet", "text_encoder") if any(n.startswith(f"{part}.") for n in edit.names)]
    )
    pipe.unload_lora_weights()
    missed = size = 0.0
    for name, after in networks(pipe).items():
        if name not in edit.names:
            assert torch.equal(after, before[name])
            continue
        delta = edit.delta(name, before[name])
        missed += float((after - before[name] - delta).square().sum())
        size += float(delta.square().sum())
    assert (missed / size) ** 0.5 < TOLERANCE[dtype] + 1e-6
    bake(edit, folder, tmp_path / "baked")
    wanted = picture(stock(tmp_path / "baked"))
    assert (picture(pipe) - wanted).abs().max() < max(100 * TOLERANCE[dtype], 1e-4) * (
        plain - wanted
    ).abs().max() + 1e-5


# PEFT asks transformers for it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [text_map, low_rank])
def test_peft_folder(family, make, base, tmp_path) -> None:
    """One adapter a network; merged, each weight is the edited one."""
    folder = base(family)
    edit = make(folder)
    export_edit(edit, folder, "peft", tmp_path / "p", torch.float32)
    parts = sorted({name.partition(".")[0] for name in edit.names})
    pipe = stock(folder)
    before = {name: p.clone() for name, p in networks(pipe).items()}
    for part in parts:
        place = tmp_path / "p" / part if len(parts) > 1 else tmp_path / "p"
        merged = PeftModel.from_pretrained(getattr(pipe, part), place).merge_and_unload()
        for name, after in merged.named_parameters():
            full = f"{part}.{name}"
            wanted = before[full] + edit.delta(full, before[full]) if full in edit.names else before[full]
            assert torch.allclose(after, wanted, atol=1e-6), full


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [text_map, low_rank, dense])
def test_comfyui_patch_added_to_the_single_file_is_the_edited_single_file(family, make, base, tmp_path) -> None:
    """What ComfyUI does with a `.diff`: it is added to the tensor of that name. Exact, and nothing is left over."""
    folder = base(family)
    edit = make(folder)
    export_edit(edit, folder, "comfyui", tmp_path / "c.safetensors")
    for name, strength in (("before", 0.0), ("after", 1.0)):
        export_edit(edit.scaled(strength), folder, "single-file", tmp_path / f"{name}.safetensors")
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in ("before", "after"))
    patch = load_file(tmp_path / "c.safetensors")
    assert len(patch) == len(edit.names)
    for key, diff in patch.items():
        module, _, kind = key.rpartition(".")
        name = f"{module}.{'bias' if kind == 'diff_b' else 'weight'}"
        if name.startswith("diffusion_model."):
            assert torch.equal(before[f"model.{name}"] + diff, after[f"model.{name}"])
    assert not [key for key in patch if not key.startswith(("diffusion_model.", "text_encoders.clip_"))]


def test_dense_lora_is_the_nearest_and_says_how_near(base, tmp_path) -> None:
    folder = base("sd1")
    there = parameters(folder, "unet")
    edit = stamped(
        DenseEdit({name: drawn(there[name].shape, i) for i, name in enumerate(matrices(folder)[:-3])}), folder
    )
    left = total = 0.0
    for name in edit.names:
        sizes = torch.linalg.svdvals(edit.delta(name, there[name]).flatten(1).double())
        left, total = left + float(sizes[4:].square().sum()), total + float(sizes.square().sum())
    done = export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32, rank=4)
    assert done.error == pytest.approx((left / total) ** 0.5, rel=1e-4)
    assert done.ranks == (4, 4)
    assert "relative error" in str(done)
    whole = export_edit(edit, folder, "kohya", tmp_path / "w.safetensors", torch.float32)
    assert whole.error < 1e-6


@pytest.mark.parametrize(("now", "told"), [(None, "openrail++"), ("---\nlicense: mit\n---\n", "mit")])
def test_a_base_that_says_nothing_has_the_licence_it_had_when_the_edit_was_made(now, told, base, tmp_path) -> None:
    edit, folder = text_map(base("sd1")), tmp_path / "base"
    shutil.copytree(base("sd1"), folder)
    (folder / "README.md").unlink()
    if now:
        (folder / "README.md").write_text(now)
    export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float16)
    with safe_open(tmp_path / "l.safetensors", "pt") as opened:
        assert opened.metadata()["unconcept.licence"] == told


@pytest.mark.parametrize(
    ("to", "name"),
    [("kohya", "l.safetensors"), ("comfyui", "c.safetensors"), ("single-file", "m.safetensors"), ("peft", "p")],
)
def test_header_says_where_it_came_from(to, name, base, tmp_path) -> None:
    edit = text_map(base("sdxl"))
    export_edit(edit, base("sdxl"), to, tmp_path / name, torch.float16)
    file = tmp_path / name / "adapter_model.safetensors" if to == "peft" else tmp_path / name
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    assert (told["unconcept.base"], told["unconcept.base_hash"], told["unconcept.edit_hash"]) == (
        edit.origin.base,
        edit.origin.base_hash,
        edit.hash,
    )
    assert (told["unconcept.family"], told["unconcept.method"], told["unconcept.licence"]) == (
        "sdxl",
        "uce",
        "openrail++",
    )
    assert json.loads(told["unconcept.targets"]) == ["dog face", "car"]
    assert json.loads(told["unconcept.settings"])["lamb"] == 0.5
    assert {"unconcept.version", "unconcept.libraries", "unconcept.dtype", "format"} <= set(told)
    assert {"torch", "diffusers"} <= set(json.loads(told["unconcept.libraries"]))
    # A1111 offers a LoRA for SDXL only if its header says so.
    assert told.get("ss_base_model_version") == ("sdxl_base_v1-0" if to == "kohya" else None)


def test_a_pair_is_not_rounded_away(base, tmp_path) -> None:
    """Two large terms that nearly cancel, in half precision."""
    folder = base("sd1")
    name = matrices(folder)[0]
    o, d = parameters(folder, "unet")[name].shape
    big, row = 300 * drawn(torch.Size((o, 1)), 0), drawn(torch.Size((1, d)), 1)
    edit = stamped(
        LowRankEdit(
            {name: (torch.cat([big + drawn(torch.Size((o, 1)), 2), -big], 1).double(), torch.cat([row, row]).double())}
        ),
        folder,
    )
    assert export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float16).error < 1e-3


def test_bad_input_is_one_line_and_leaves_nothing(base, tmp_path) -> None:
    folder, out = base("sd1"), tmp_path / "o.safetensors"
    edit, everything = text_map(folder), dense(folder)
    other = stamped(DenseEdit({"vae.decoder.conv_in.bias": torch.ones(8)}), folder)
    huge = stamped(LowRankEdit({matrices(folder)[0]: (torch.full((8, 1), 1e9), torch.full((1, 32), 1e9))}), folder)
    tiny.pipeline("sd1", seed=1).save_pretrained(tmp_path / "another")
    for given, where, to, more, said, kind in (
        (edit, tmp_path / "another", "kohya", {}, "made for other weights", EditError),
        (edit, folder, "single-file", {"rank": 4}, "only --to comfyui-lora, kohya, peft have one", SettingsError),
        (edit, folder, "kohya", {"rank": 0}, "a rank of at least 1", SettingsError),
        (everything, folder, "kohya", {}, "a LoRA cannot hold", EditError),
        (other, folder, "comfyui", {}, "no patch of a vae", EditError),
        (huge, folder, "kohya", {"dtype": torch.float16}, "does not fit into float16", NumericsError),
    ):
        with pytest.raises(kind, match=said) as raised:
            export_edit(given, where, to, out, **more)
        assert "\n" not in str(raised.value)
        assert not out.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ModelError, match="original layout is only known for"):
        ModelLayout.of(tmp_path / "other")
