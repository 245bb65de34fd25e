"""Published models in one file need nothing else: they are recognised by names and shapes, and their configs are here.

Files have the real shapes and no bytes: the header is written, the rest is a hole in the file.
"""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from tests import tiny
from tests.cli.test_cli import run
from tests.edits.test_export_names import KEYS, listed, parameters
from tests.models.test_single_file import single
from unconcept.core.errors import ModelError
from unconcept.edits import load_edit
from unconcept.models.checkpoint.config import config_folder, read_config
from unconcept.models.checkpoint.pipeline import packaged_tokenizers
from unconcept.models.checkpoint.published import VOCABULARIES, vocabulary_folder
from unconcept.models.checkpoint.safetensors_io import tensor_shapes
from unconcept.models.layouts.layout import ModelLayout
from unconcept.models.loading import absolute_source, find_model, open_model, recognised_title
from unconcept.models.text.tokenizer import TextTokenizer
from unconcept.worlds.registry import split_config, with_config

PACKAGED = VOCABULARIES["clip"].parent
FOLDERS = {"sd1": "stable-diffusion-1", "sd2": "stable-diffusion-2-base", "sdxl": "stable-diffusion-xl"}
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]  # "a photo of a cat", as CLIP's authors' tokenizer reads it
LABEL = "model.diffusion_model.label_emb.0.0.weight"  # a 2.x unCLIP has one
V_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
Shapes = Mapping[str, tuple[int, ...]]


def write_hole(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F16") -> Path:
    """A safetensors file of these shapes whose tensors are holes: it takes no room."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + torch.Size(shape).numel() * 2
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@cache
def real_shapes(family: str) -> Shapes:
    """Names and shapes of a published file, from the real networks and the layout that `test_export_names` checks."""
    layout = ModelLayout.of(PACKAGED / FOLDERS[family])
    found: dict[str, tuple[int, ...]] = {}
    for name, parameter in parameters(family).items():
        place = layout.in_single_file(name)
        assert place is not None
        original, packing = place
        shape = tuple(parameter.shape[::-1] if packing.transposed else parameter.shape)
        found[original] = (shape[0] // packing.rows[1] * packing.rows[2], *shape[1:])
    wanted = listed(f"{family}-single-file") if family != "sd2" else set(found)
    assert set(found) == wanted
    return found


@pytest.fixture
def file(tmp_path):
    """A hole of a family."""

    def of(family: str, metadata: Mapping[str, str] | None = None, name: str = "m.safetensors", **more) -> Path:
        return write_hole(tmp_path / name, {**real_shapes(family), **more}, metadata)

    return of


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "sdxl"))])
def test_a_published_file_needs_nothing_else(family, file) -> None:
    """It is recognised, and the networks that its packaged configs build have the names and shapes of the file."""
    path = file(family)
    folder = config_folder(path)
    assert folder == PACKAGED / FOLDERS[family]
    view = open_model(str(path), "cpu", "float32")
    assert view.family == family
    assert [tokens(["a photo of a cat"]).ids[0] for tokens in view.tokenizers] == [tuple(CAT)] * len(view.spec.encoders)
    for part in ModelLayout.of(folder).parts:
        built = {
            name.removeprefix("text_model."): tuple(p.shape) for name, p in network(folder, part).named_parameters()
        }
        if part == "vae":
            there = {n.removeprefix("vae."): tuple(p.shape) for n, p in parameters(family).items() if n[:4] == "vae."}
        else:
            shapes = tensor_shapes(view.checkpoint.lazy_parameters(part))
            there = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
        assert built == there, part


def network(folder: Path, part: str) -> nn.Module:
    """A network of packaged configs, on the meta device."""
    config, (_, kind) = read_config(folder / part / "config.json"), read_config(folder / "model_index.json")[part]
    with init_empty_weights():
        if kind.startswith("CLIP"):
            module: nn.Module = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
        else:
            module = getattr(diffusers, kind).from_config(config)
    return module


def test_both_2x_models_have_one_shape() -> None:
    ours = {name: PACKAGED / name for name in ("stable-diffusion-2-base", "stable-diffusion-2-v")}
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
        base, v = (read_config(folder / part / name) for folder in ours.values())
        assert {key for key in base if base[key] != v[key]} <= {"sample_size"}


def test_sdxl_is_recognised(file) -> None:
    assert recognised_title(str(file("sdxl"))) == "Stable Diffusion XL"


def test_a_2x_file_says_what_it_predicts(file, tmp_path) -> None:
    """By its metadata, else by the weights that only v-prediction moves far from 0."""
    for said, name in (("v", "stable-diffusion-2-v"), ("epsilon", "stable-diffusion-2-base")):
        assert config_folder(file("sd2", {"modelspec.prediction_type": said})).name == name
    assert config_folder(file("sd2")).name == "stable-diffusion-2-base"
    path = file("sd2")
    with path.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        begin, end = json.loads(opened.read(size))[V_BIAS]["data_offsets"]
        opened.seek(8 + size + begin)
        values = torch.linspace(-0.2, 0.2, (end - begin) // 2, dtype=torch.float16)
        opened.write(values.view(torch.uint8).numpy().tobytes())
    assert config_folder(path).name == "stable-diffusion-2-v"
    scheduler = read_config(PACKAGED / "stable-diffusion-2-v/scheduler/scheduler_config.json")
    assert (
        scheduler["prediction_type"],
        read_config(PACKAGED / "stable-diffusion-2-v/unet/config.json")["sample_size"],
    ) == (
        "v_prediction",
        96,
    )


def without_a_map() -> Shapes:
    lost = "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"
    return {name: shape for name, shape in real_shapes("sdxl").items() if name != lost}


def transformer(name: str) -> Shapes:
    return dict.fromkeys((KEYS / f"{name}-transformer.txt").read_text().split(), (1,))


@pytest.mark.parametrize(
    ("shapes", "metadata", "said"),
    [
        (
            lambda: {**real_shapes("sd1"), "model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)},
            {},
            "its UNet takes 9 channels instead of the autoencoder's 4",
        ),
        (without_a_map, {}, "its UNet's 139 maps of the text have other names or shapes"),
        (lambda: {**real_shapes("sd2"), LABEL: (1280, 2048)}, {}, "other names or shapes, and it reads labels"),
        (lambda: {**real_shapes("sdxl"), "v_pred": (1,)}, {}, "it does not predict noise"),
        (lambda: real_shapes("sd1"), {"modelspec.prediction_type": "v"}, "it does not predict noise"),
        (lambda: {"x": (1,)}, {}, "it holds no UNet in the original layout"),
        (lambda: transformer("flux"), {}, r"is FLUX\.1, whose configs are not in this package"),
        (lambda: transformer("sd3"), {}, "its transformer takes 0 channels instead of the autoencoder's 16"),
        (lambda: transformer("chroma"), {}, "is Chroma, whose configs are not in this package"),
    ],
)
def test_files_that_no_packaged_config_fits(shapes, metadata, said, tmp_path) -> None:
    """One line: what the file is, what is missing, and the two ways to give it."""
    path = write_hole(tmp_path / "m.safetensors", shapes(), metadata)
    two_ways = "put the configs and tokenizers of its base .* into .*/m, or name such a folder with --config"
    with pytest.raises(ModelError, match=f"{said}.*: {two_ways}") as raised:
        find_model(str(path))
    assert "\n" not in str(raised.value)


def test_loras_and_networks_alone_are_told_apart_from_models(tmp_path) -> None:
    path = write_hole(tmp_path / "l.safetensors", {"lora_unet_x.lora_up.weight": (1,)})
    with pytest.raises(ModelError, match="is a LoRA, not a model: `unconcept import` reads it"):
        find_model(str(path))
    unet = {name: shape for name, shape in real_shapes("sd1").items() if name.startswith("model.")}
    path = write_hole(tmp_path / "u.safetensors", unet)
    with pytest.raises(
        ModelError, match=r"holds no text_encoder in the original layout.*with --config a diffusers fol"
    ):
        open_model(str(path), "cpu")


@pytest.mark.parametrize(
    ("place", "pad"),
    [
        ("stable-diffusion-1/tokenizer", 49407),
        ("stable-diffusion-2-v/tokenizer", 0),
        ("stable-diffusion-xl/tokenizer_2", 0),
    ],
)
def test_the_packaged_vocabulary_is_clips(place, pad) -> None:
    """The known ids, and those of transformers; CLIP-L is padded with the end token, OpenCLIP's G and H with "!"."""
    folder = PACKAGED / place
    ours = TextTokenizer.load(folder, vocabulary_folder(folder, "clip"))
    assert ours(["a photo of a cat"]).padded() == [[*CAT, *[pad] * 70]]
    (theirs,) = (t for name, t in packaged_tokenizers(folder.parent).items() if name == folder.name)
    texts = ["", "Zoé's  wolf-dog, 3 ☕!", "THE Quick brown fox", "naïve façade", "a" * 40, "猫 と 犬"]
    assert theirs(texts, padding="max_length")["input_ids"] == ours(texts).padded()


def test_the_vocabulary_is_whole() -> None:
    """Bytes, bytes at a word's end, one token a merge, and the two special ones, as CLIP numbers them."""
    vocab = json.loads((VOCABULARIES["clip"] / "vocab.json").read_text(encoding="utf-8"))
    merges = (VOCABULARIES["clip"] / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    assert (len(vocab), len(merges)) == (49408, 49408 - 2 * 256 - 2)
    assert all(vocab["".join(merge.split(" "))] == 512 + i for i, merge in enumerate(merges))
    assert "Copyright (c) 2021 OpenAI" in (VOCABULARIES["clip"] / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, Path]:
    """A toy in one file, and its configs elsewhere; no packaged config fits it."""
    root = tmp_path_factory.mktemp("toy")
    file = single(tiny.folder("sd1", root / "base"), root / "made")
    shutil.move(root / "made/m", root / "configs")
    return file, root / "configs"


def test_named_configs_are_used_by_every_command(toy, tmp_path) -> None:
    """Also later, without being named again: run.json names the base with its configs."""
    file, configs = toy
    words = ("--anchor", "cat", "--no-report", "--quiet", "--out")
    result = run("erase", "dog", "--model", file, *words, tmp_path / "o")
    assert result.exit_code == 2
    assert "or name such a folder with --config" in result.stderr
    result = run("erase", "dog", "--model", file, "--config", configs, *words, tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    edit = tmp_path / "o/edit.safetensors"
    assert load_edit(edit).origin.base == file.name
    assert recognised_title(with_config(str(file), configs)) is None
    for place in ("a.safetensors", "b.safetensors"):
        result = run(
            "apply",
            edit,
            *(() if place[0] == "a" else ("--model", file, "--config", configs)),
            "--out",
            tmp_path / place,
        )
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert run("sample", "a dog", "--edit", edit, "--steps", 1, "--quiet", "--out", tmp_path / "s").exit_code == 0


def test_named_configs_that_cannot_be(toy, tmp_path) -> None:
    file, configs = toy
    for words, said in (
        (("--config", configs), "goes with --model FILE.safetensors, not with moji"),
        (("--model", configs, "--config", configs), "goes with --model FILE.safetensors"),
        (("--model", file, "--config", tmp_path), "is not a diffusers folder"),
    ):
        result = run("erase", "dog", *words, "--no-report", "--quiet", "--out", tmp_path / "o")
        assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
        assert said in result.stderr
    other = shutil.copytree(configs, tmp_path / "other")
    find_model(with_config(str(file), configs))
    with pytest.raises(ModelError, match="is already open with the configs in"):
        find_model(with_config(str(file), other))


def test_a_name_with_configs_is_taken_apart_and_made_absolute(toy, monkeypatch) -> None:
    file, configs = toy
    monkeypatch.chdir(file.parent)
    named = with_config(file.name, Path("..") / configs.name)
    assert split_config(named) == (file.name, Path("..") / configs.name)
    assert split_config(absolute_source(named)) == (str(file), configs)
    assert split_config("moji") == ("moji", None)
