"""Weights stored as 8-bit floats are read as the numbers that they are; other quantised formats are refused."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny
from tests.cli.test_bad_models import ERASE, SAMPLE, refused
from tests.cli.test_cli import run
from tests.edits import mmdit_toys
from tests.edits.test_export import base as wide_base  # noqa: F401
from tests.edits.test_export import text_map
from tests.models.test_single_file import single
from unconcept.core.errors import ModelError
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.models import open_model
from unconcept.models.checkpoint import safetensors_io
from unconcept.models.checkpoint.locations import tensor_locations
from unconcept.models.checkpoint.safetensors_io import LazyTensors, TensorLocation, is_finite, table_rows
from unconcept.models.families import families

FAMILIES = (*tiny.FAMILIES, *tiny.MMDITS, "pixart")
NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2]
A_WEIGHT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory, wide_base):  # noqa: F811
    """SD3's single files have the identity as CLIP-L's projection, and so has its toy."""

    @cache
    def of(family: str) -> Path:
        place = tmp_path_factory.mktemp(family) / "base"
        if family == "sdxl":
            return wide_base(family)
        return mmdit_toys.saved(family, place) if family == "sd3" else tiny.folder(family, place)

    return of


FORMATS = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}


def mark(**told: object) -> torch.Tensor:
    """JSON as bytes, as ComfyUI marks a layer."""
    return torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


def stored(tensors: dict[str, torch.Tensor], dtype: torch.dtype, scaled: str) -> dict[str, torch.Tensor]:
    """Every matrix as 8-bit floats; with scales as ComfyUI writes them, in its first form or in its present one."""
    kept = {"scaled_fp8": torch.zeros(2, dtype=dtype)} if scaled == "first" else {}
    scale_name, input_name = ("weight_scale", "input_scale") if scaled == "marked" else ("scale_weight", "scale_input")
    for name, tensor in tensors.items():
        scale = tensor.abs().max().clamp(min=1e-12) / torch.finfo(dtype).max
        if tensor.ndim != 2 or not name.endswith("weight") or "first_stage" in name or "in_proj" in name:
            kept[name] = tensor
        elif scaled:
            kept[name] = (tensor / scale).to(dtype)
            kept[name.removesuffix("weight") + scale_name] = scale
            kept[name.removesuffix("weight") + input_name] = torch.ones(())
            if scaled == "marked":
                told = {"format": FORMATS[dtype], "full_precision_matrix_mult": True}
                kept[name.removesuffix("weight") + "comfy_quant"] = mark(**told)
        else:
            kept[name] = tensor.to(dtype)
    return kept


def values(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the stored tensors mean, in float32."""
    found = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix("weight")
        scale = tensors.get(layer + "scale_weight", tensors.get(layer + "weight_scale", torch.ones(())))
        if not name.endswith(COMPANIONS):
            found[name] = (
                tensor.float() * (scale if name.endswith("weight") else 1) if tensor.is_floating_point() else tensor
            )
    return found


COMPANIONS = ("scale_weight", "scale_input", "scaled_fp8", "weight_scale", "input_scale", "comfy_quant")


def rewritten(file: Path, dtype: torch.dtype, scaled: str, plain: Path) -> None:
    """A file's tensors as 8-bit floats, and what they mean in the file `plain`."""
    tensors = stored(load_file(file), dtype, scaled)
    save_file(tensors, file, metadata={"format": "pt"})
    save_file(values(tensors), plain, metadata={"format": "pt"})


def same_model(one: Path, other: Path) -> None:
    """Text maps and states bitwise, the built networks bitwise, and the pictures."""
    ours, plain = (open_model(str(source), "cpu", "float32") for source in (one, other))
    maps = plain.text_maps()
    assert all(torch.equal(weight, maps[name]) for name, weight in ours.text_maps().items())
    assert torch.equal(ours.embed(["a dog"], at="all"), plain.embed(["a dog"], at="all"))
    for part in (ours.spec.denoiser, "vae", *(encoder.part for encoder in ours.spec.encoders)):
        built = dict(plain.modules(part).named_parameters())
        assert all(torch.equal(weight, built[name]) for name, weight in ours.modules(part).named_parameters())
    pictures = [view.sample(["a dog"], NOISE, 1, 3.0) for view in (ours, plain)]
    assert torch.allclose(*pictures, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "dtype", "scaled"),
    [
        *((family, DTYPES[0], "first") for family in FAMILIES if family != "sd2"),
        pytest.param("sd2", DTYPES[0], "first", marks=pytest.mark.slow),  # with the UNet of sd1
        ("sd1", DTYPES[0], "marked"),
        *(pytest.param(family, DTYPES[0], "marked", marks=pytest.mark.slow) for family in FAMILIES[1:]),
        pytest.param("sd1", DTYPES[1], "marked", marks=pytest.mark.slow),
        ("sd1", DTYPES[1], ""),
        *(pytest.param(family, DTYPES[1], "", marks=pytest.mark.slow) for family in FAMILIES[1:]),
    ],
)
def test_a_folder(family, dtype, scaled, base, tmp_path) -> None:
    """Of every family, denoiser and encoders; the same as the folder with the values in float32."""
    ours, plain = (shutil.copytree(base(family), tmp_path / name) for name in ("ours", "plain"))
    spec = families[family]
    for part in (spec.denoiser, *(encoder.part for encoder in spec.encoders)):
        (file,) = (ours / part).glob("*.safetensors")
        rewritten(file, dtype, scaled, plain / part / file.name)
    same_model(ours, plain)


@pytest.mark.parametrize(
    ("family", "dtype", "scaled"),
    [
        ("sd1", DTYPES[0], "first"),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in (
                ("sd1", DTYPES[0], ""),
                ("sdxl", DTYPES[0], "marked"),
                ("sdxl", DTYPES[0], "first"),
                ("sd3", DTYPES[0], "first"),
            )
        ),
    ],
)
def test_a_single_file(family, dtype, scaled, base, tmp_path) -> None:
    file = single(base(family), tmp_path)
    plain = tmp_path / "plain.safetensors"
    shutil.copytree(tmp_path / "m", tmp_path / "plain")
    rewritten(file, dtype, scaled, plain)
    same_model(file, plain)


def test_a_denoiser_alone(base, tmp_path) -> None:
    """As published scaled FLUX: no prefix, encoders and autoencoder in the folder of the configs."""
    folder = base("flux")
    file, plain = single(folder, tmp_path), shutil.copytree(folder, tmp_path / "plain")
    prefix = "model.diffusion_model."
    own = {name.removeprefix(prefix): t for name, t in load_file(file).items() if name.startswith(prefix)}
    save_file(stored(own, DTYPES[0], "first"), file)
    shutil.copytree(folder, tmp_path / "m", dirs_exist_ok=True)
    (tmp_path / "m/transformer/diffusion_pytorch_model.safetensors").unlink()
    tensors = LazyTensors(tensor_locations(file, "transformer"))
    meant = {name: tensors[name].clone() for name in tensors}
    save_file(meant, plain / "transformer/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(meant[name], weights[name], rtol=0.1, atol=0.01) for name in weights)
    same_model(file, plain)


def test_marks_in_the_header(base, tmp_path) -> None:
    """ComfyUI reads them there or beside the layers; a file may have both."""
    ours, plain = (shutil.copytree(base("sd1"), tmp_path / name) for name in ("ours", "plain"))
    file = ours / "unet/diffusion_pytorch_model.safetensors"
    rewritten(file, DTYPES[0], "marked", plain / "unet" / file.name)
    tensors = load_file(file)
    marks = [name.removesuffix(".comfy_quant") for name in tensors if name.endswith(".comfy_quant")]
    told = {"format": FORMATS[DTYPES[0]], "full_precision_matrix_mult": True}
    header = {"format_version": "1.0", "layers": dict.fromkeys(marks, told)}
    for name in marks[1:]:
        del tensors[f"{name}.comfy_quant"]
    save_file(tensors, file, metadata={"format": "pt", "_quantization_metadata": json.dumps(header)})
    same_model(ours, plain)


@pytest.mark.parametrize("scaled", [pytest.param("first", marks=pytest.mark.slow), "marked"])
def test_shards_with_the_scale_in_another(scaled, base, tmp_path) -> None:
    ours, plain = (shutil.copytree(base("sd1"), tmp_path / name) for name in ("ours", "plain"))
    file = ours / "unet/diffusion_pytorch_model.safetensors"
    rewritten(file, DTYPES[0], scaled, plain / "unet" / file.name)
    tensors = load_file(file)
    names = sorted(tensors)
    table = {}
    for shard, own in enumerate((names[::2], names[1::2])):
        place = f"diffusion_pytorch_model-{shard + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, file.with_name(place), metadata={"format": "pt"})
        table |= dict.fromkeys(own, place)
    file.unlink()
    (ours / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    same_model(ours, plain)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", ["first", "marked"])
def test_edits_of_8_bit_weights(scaled, base, tmp_path) -> None:
    """They are made, drawn, and exported at a wider dtype; 8 bits are too coarse to hold one."""
    ours, plain = (shutil.copytree(base("sd1"), tmp_path / name) for name in ("ours", "plain"))
    for part in ("unet", "text_encoder"):
        (file,) = (ours / part).glob("*.safetensors")
        rewritten(file, DTYPES[0], scaled, plain / part / file.name)
    made = tmp_path / "made"
    assert run(*ERASE, "--model", ours, "--out", made).exit_code == 0
    edit = made / "edit.safetensors"
    assert run(*SAMPLE, "--model", ours, "--edit", edit, "--out", tmp_path / "s").exit_code == 0
    refused(tmp_path / "o", "apply", edit, "--model", ours, said="export --to diffusers --dtype float16")
    for model in (ours, plain):
        words = ("export", edit, "--model", model, "--to", "diffusers", "--dtype", "float32")
        assert run(*words, "--out", made / model.name).exit_code == 0
    same_model(made / "ours", made / "plain")
    DiffusionPipeline.from_pretrained(made / "ours", local_files_only=True)
    for to in ("kohya", "single-file", "comfyui"):
        out = made / f"{to}.safetensors"
        assert run("export", edit, "--model", ours, "--to", to, "--out", out).exit_code == 0
    shutil.copytree(ours, made / "single-file", ignore=shutil.ignore_patterns("*.safetensors"))
    same_model(made / "single-file.safetensors", made / "plain")
    assert set(read_foreign_edit(made / "kohya.safetensors", ours).edit.names) == set(text_map(ours).names)


U8, SCALE, BLOCKS, E4M3 = torch.zeros(3, 1, dtype=torch.uint8), torch.ones(()), torch.ones(4, 2), DTYPES[0]
X = A_WEIGHT.removesuffix(".weight")
I8, F8, BLOCK8 = torch.zeros(16, 32, dtype=torch.int8), torch.zeros(16, 32, dtype=E4M3), {"group_size": 8}
CONVROT = {"convrot": True, "convrot_groupsize": 256}
MARKED = [  # weight, scale, mark, and what is said of it
    (I8, SCALE, {"format": "int8_tensorwise"}, "format int8_tensorwise, which"),
    (I8, torch.ones(16), {"format": "int8_tensorwise", **CONVROT}, "with convrot True, convrot_groupsize 256"),
    (I8, BLOCKS, {"format": "int8_blockwise", **BLOCK8}, "int8_blockwise with group_size 8"),
    (torch.zeros(16, 16, dtype=torch.uint8), BLOCKS.to(E4M3), {"format": "nvfp4"}, "format nvfp4, which"),
    (F8, BLOCKS.to(torch.uint8), {"format": "mxfp8"}, "format mxfp8, which"),
    (F8, BLOCKS, {"format": "float8_e4m3fn", **BLOCK8}, "float8_e4m3fn with group_size 8"),
    (F8, BLOCKS, {"format": "float8_e4m3fn"}, "float8_e4m3fn with 8 scales (F32), by rows or blocks"),
    (F8, SCALE, {"format": "float8_e5m2"}, "marked as float8_e5m2, but it is F8_E4M3"),
    (torch.zeros(16, 32), SCALE, {"format": "float8_e4m3fn"}, "marked as float8_e4m3fn, but it is F32"),
    (F8, SCALE, {"full": 1}, "format None with full 1"),
]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({f"{X}.weight.absmax": SCALE, f"{X}.weight.quant_map": SCALE}, "bitsandbytes' 4-bit"),
        ({A_WEIGHT: U8, f"{X}.weight.quant_state.bitsandbytes__nf4": U8}, "bitsandbytes' 4-bit"),
        ({A_WEIGHT: torch.zeros(16, 32, dtype=torch.int8), f"{X}.SCB": torch.ones(16)}, "bitsandbytes' 8-bit"),
        ({f"{X}.comfy_quant": U8}, "comfy_quant is no mark of ComfyUI's quantised formats that can be read"),
        *(
            ({A_WEIGHT: weight, f"{X}.weight_scale": scale, f"{X}.comfy_quant": mark(**told)}, said)
            for weight, scale, told, said in MARKED
        ),
        ({f"{X}.comfy_quant": mark(format="float8_e4m3fn")}, "weight_scale is missing"),
        ({A_WEIGHT: torch.zeros(16, 32, dtype=DTYPES[0]), f"{X}.weight_scale": SCALE}, "without a mark that names it"),
        ({f"{X}.weight_scale": SCALE, f"{X}.weight_scale_2": SCALE}, "scaled format of ComfyUI or BFL"),
        ({f"{X}.qweight": U8, f"{X}.wscales": SCALE, f"{X}.smooth_factor": SCALE}, "SVDQuant"),
        ({f"{X}.weight._data": U8, f"{X}.weight._scale": SCALE}, "quanto"),
        ({f"{X}.something_new": SCALE}, "quantised or fused"),
        ({A_WEIGHT: torch.zeros(16, 32, dtype=torch.int8)}, "I8"),
        ({A_WEIGHT: torch.zeros(16, 32, dtype=torch.float8_e4m3fnuz)}, "F8_E4M3FNUZ"),
        ({f"{X}.scale_weight": SCALE}, "has a scale but is no 8-bit float"),
        ({A_WEIGHT: torch.zeros(16, 32).to(DTYPES[0]), f"{X}.scale_weight": torch.ones(16)}, "has 16 elements"),
        ({A_WEIGHT: torch.zeros(16, 32).to(DTYPES[0]), f"{X}.scale_weight": SCALE * float("nan")}, "NaN"),
        ({A_WEIGHT: torch.full((16, 32), float("nan")).to(DTYPES[1])}, "NaN"),
        ({f"{X.removesuffix('to_k')}to_kv.weight": torch.ones(2, 2)}, "fused attention projections"),
        ({f"{X}.base_layer.weight": torch.ones(2, 2)}, "adapters that are not fused"),
    ],
)
@pytest.mark.parametrize("words", [ERASE, pytest.param(SAMPLE, marks=pytest.mark.slow)], ids=["erase", "sample"])
def test_what_is_not_understood_is_refused(words, more, said, base, tmp_path) -> None:
    """When the file is opened; a number that is wrong when it is read."""
    folder = shutil.copytree(base("sd1"), tmp_path / "m")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file(
        {name: tensor.clone() for name, tensor in (load_file(file) | more).items()}, file, metadata={"format": "pt"}
    )
    refused(tmp_path / "o", *words, "--model", folder, said=said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{", "is no mark of ComfyUI"),
        ('{"format_version": "2.0", "layers": {}}', "unknown version"),
        ('{"format_version": "1.0"}', "unknown version"),
        ('{"layers": {"x": "float8_e4m3fn"}}', "tells no format of x"),
        ('{"layers": {"x": {"format": "float8_e4m3fn"}}}', "x.weight is missing"),
        ('{"layers": {"x": {"format": "nvfp4"}}}', "x is stored in ComfyUI's quantised format nvfp4"),
    ],
)
def test_headers_that_are_not_understood(header, said, base, tmp_path) -> None:
    folder = shutil.copytree(base("sd1"), tmp_path / "m")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "_quantization_metadata": header})
    refused(tmp_path / "o", *ERASE, "--model", folder, said=said)


def test_a_packed_single_file_without_configs_names_its_format(tmp_path) -> None:
    """Its shapes are halved, so that they tell no family."""
    layer = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
        f"{layer}.weight": torch.zeros(320, 384, dtype=torch.uint8),
        f"{layer}.comfy_quant": mark(format="nvfp4"),
    }
    save_file(tensors, tmp_path / "packed.safetensors")
    refused(tmp_path / "o", *ERASE, "--model", tmp_path / "packed.safetensors", said="quantised format nvfp4")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_configs_and_every_part(part, base, tmp_path) -> None:
    folder = shutil.copytree(base("sd1"), tmp_path / "m")
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".weight"))
    save_file(tensors | {f"{name}.absmax": torch.ones(3)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="quantised"):
        open_model(str(folder), "cpu")
    save_file(tensors, file, metadata={"format": "pt"})
    told = json.loads((folder / part / "config.json").read_text())
    told["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / part / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=f"{part}: its config.json names quantised weights .bitsandbytes."):
        open_model(str(folder), "cpu")


class Largest(TorchDispatchMode):
    """Notes the largest tensor of float64 that is computed."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            self.size = max(self.size, found.numel())
        return found


def test_only_the_rows_that_are_asked_for_are_converted(tmp_path) -> None:
    """A table of words is gigabytes in float32."""
    table, ids = torch.randn(50, 4).bfloat16(), torch.tensor([[3, 3], [49, 0]])
    save_file({"table": table}, tmp_path / "t.safetensors")
    lazy = LazyTensors({"table": TensorLocation(tmp_path / "t.safetensors", "table")}, dtype=torch.float64)
    with Largest() as largest:
        found = table_rows(lazy, "table", ids)
    assert torch.equal(found, table[ids].double())
    assert torch.equal(table_rows({"table": table}, "table", ids), table[ids])
    assert largest.size == found.numel()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_every_part_of_a_tensor_is_checked(monkeypatch, broken) -> None:
    monkeypatch.setattr(safetensors_io, "_CHECKED_AT_ONCE", 4)
    tensor = torch.full((3, 3), 2e38)  # whose sums overflow
    assert is_finite(tensor)
    for at in (0, 4, 8):
        damaged = tensor.clone()
        damaged.view(-1)[at] = broken
        assert not is_finite(damaged)
    assert is_finite(torch.empty(0, 3))
