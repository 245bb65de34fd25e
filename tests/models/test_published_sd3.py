"""Stable Diffusion 3 and 3.5 in one file need no configs beside them; text encoders are in the file or beside it.

The toy has the published names, CLIP's and T5's own vocabularies, and takes the place of 3.5 large's packaged configs.
"""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests import tiny
from tests.cli.test_cli import run
from tests.edits.test_export_names import listed
from tests.models.test_published import PACKAGED, write_hole
from unconcept.core.errors import EditError, ModelError
from unconcept.edits import DenseEdit, load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.checkpoint import write_single_file
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.models.checkpoint import published
from unconcept.models.checkpoint.config import config_folder, read_config
from unconcept.models.checkpoint.pipeline import packaged_tokenizers
from unconcept.models.checkpoint.published import VOCABULARIES, vocabulary_folder
from unconcept.models.layouts.layout import ModelLayout, group_by_packed_tensor
from unconcept.models.layouts.telling import SD3_TRANSFORMERS
from unconcept.models.loading import open_model, recognised_title
from unconcept.models.text.tokenizer import TextTokenizer

LARGE = "stable-diffusion-3.5-large"
LISTS = {"stable-diffusion-3": "sd3", "stable-diffusion-3.5-medium": "sd35-medium", LARGE: "sd35-large"}
MODELS = pytest.mark.parametrize("name", LISTS)
PREFIX = "model.diffusion_model."
GERMAN = [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]  # T5's well-known first example
LOAD = TextTokenizer.load
TEXTS = ["dog face", "", "a moon"]
TEXT_ENTRIES = {f"{PREFIX}context_embedder.weight", f"{PREFIX}y_embedder.mlp.0.weight"}
ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}


def telling(name: str) -> dict[str, tuple[int, ...]]:
    """What the packaged config implies of a published transformer, by its names in the file."""
    shapes = SD3_TRANSFORMERS.shapes(read_config(PACKAGED / name / "transformer/config.json"))
    return {f"{PREFIX}{key}": shape for key, shape in shapes.items()}


@MODELS
def test_compared_names_are_the_published_ones(name) -> None:
    """All that the key list has of them and nothing else."""
    compared = {key for key in listed(f"{LISTS[name]}-transformer") if SD3_TRANSFORMERS.pattern.search(key)}
    assert {key.removeprefix(PREFIX) for key in telling(name)} == compared


@MODELS
@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_each_is_recognised_by_names_and_shapes(name, prefix, tmp_path) -> None:
    shapes = {f"{prefix}{key.removeprefix(PREFIX)}": shape for key, shape in telling(name).items()}
    assert config_folder(write_hole(tmp_path / "m.safetensors", shapes)) == PACKAGED / name


@MODELS
@pytest.mark.slow
def test_networks_of_the_packaged_configs_are_the_published_ones(name) -> None:
    """Every name of them stands in the key list and nothing else; the encoders have SDXL's and T5's names."""
    folder = PACKAGED / name
    layout = ModelLayout.of(folder)
    found: dict[str, torch.Tensor] = {}
    for part in ("transformer", *ENCODERS):
        config, (_, kind) = read_config(folder / part / "config.json"), read_config(folder / "model_index.json")[part]
        with init_empty_weights():
            if part == "transformer":
                module: torch.nn.Module = SD3Transformer2DModel.from_config(config)
            else:
                family = T5Config if kind.startswith("T5") else CLIPTextConfig
                module = getattr(transformers, kind)(family(**config))
        found |= {f"{part}.{key}": p for key, p in module.state_dict().items() if not key.endswith("position_ids")}
    grouped = group_by_packed_tensor(found, layout)
    assert {key.removeprefix(PREFIX) for key in grouped if key.startswith(PREFIX)} == listed(
        f"{LISTS[name]}-transformer"
    )
    for key, shape in telling(name).items():
        first, packing = next(iter(grouped[key].items()))
        assert packing.packed_shape(tuple(found[first].shape)) == shape
    assert found["text_encoder_3.shared.weight"].shape == (32128, 4096)
    assert found["text_encoder_2.text_projection.weight"].shape == (1280, 1280)


def test_the_packaged_vocabulary_is_t5s() -> None:
    """The known ids, and those of transformers, with sentinels; padded to the 256 tokens of the stock pipeline."""
    folder = PACKAGED / LARGE / "tokenizer_3"
    ours = TextTokenizer.load(folder, vocabulary_folder(folder, "t5"))
    german = "translate English to German: The house is wonderful."
    assert ours([german]).padded() == [[*GERMAN, *[0] * (512 - len(GERMAN))]]
    theirs = packaged_tokenizers(folder.parent)["tokenizer_3"]
    texts = [german, "", "Zoé's  wolf-dog, 3 ☕! ﬁ\nＡ", "a photo of <extra_id_0> cat", "</s> hi <unk>", "猫 と 犬"]
    assert theirs(texts, padding="max_length")["input_ids"] == ours(texts).padded()


def test_the_t5_vocabulary_is_whole() -> None:
    """Its 32,000 pieces with scores, 100 sentinels, and the map of characters."""
    told = json.loads((VOCABULARIES["t5"] / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = told["model"]["vocab"]
    assert (len(vocab), [piece for piece, _ in vocab[:4]]) == (32100, ["<pad>", "</s>", "<unk>", "▁"])
    assert [piece for piece, _ in vocab[32000:]] == [f"<extra_id_{i}>" for i in reversed(range(100))]
    scores = [score for _, score in vocab[3:32000]]
    assert scores == sorted(scores, reverse=True)
    assert len(told["normalizer"]["precompiled_charsmap"]) == 316720
    assert "Apache License, Version 2.0" in (VOCABULARIES["t5"] / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The toy as a diffusers folder."""
    root, real = tmp_path_factory.mktemp("toy") / LARGE, PACKAGED / LARGE
    pipe = tiny.pipeline("sd3")
    shutil.copytree(real, root)
    for name, vocabulary in (("tokenizer", "clip"), ("tokenizer_2", "clip"), ("tokenizer_3", "t5")):
        shutil.copytree(VOCABULARIES[vocabulary], root / name, dirs_exist_ok=True)
    clip = {"vocab_size": 49408, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    clip |= {"projection_dim": 32, "bos_token_id": 49406, "eos_token_id": 49407, "hidden_act": "quick_gelu"}
    t5 = {"vocab_size": 32128, "d_model": 80, "d_kv": 8, "d_ff": 160, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    parts = {
        "transformer": pipe.transformer,
        "vae": pipe.vae,
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**clip, hidden_size=32)),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**{**clip, "hidden_act": "gelu"}, hidden_size=48)),
        "text_encoder_3": T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu")),
    }
    torch.nn.init.eye_(parts["text_encoder"].text_projection.weight)
    for name, module in parts.items():
        module.save_pretrained(root / name)
    return root


@cache
def loaded(name: str, vocabulary: Path | None) -> TextTokenizer:
    """A packaged tokenizer, read once for all tests: T5's takes as long as all else in one."""
    return LOAD(PACKAGED / LARGE / name, vocabulary or VOCABULARIES["t5" if name == "tokenizer_3" else "clip"])


@pytest.fixture
def file(folder, tmp_path, monkeypatch) -> Path:
    """The toy in one file, as it is published with its text encoders; its configs are the packaged ones."""
    packaged = tmp_path / "published"
    for name in LISTS:
        leave_out = shutil.ignore_patterns("*.safetensors", "vocab.json", "merges.txt", "tokenizer.json", "LICENSE")
        shutil.copytree(folder if name == LARGE else PACKAGED / name, packaged / name, ignore=leave_out)
    for name in ("stable-diffusion-1", "stable-diffusion-2-base", "stable-diffusion-2-v", "stable-diffusion-xl"):
        shutil.copytree(PACKAGED / name, packaged / name)
    monkeypatch.setattr(published, "_FOLDER", packaged)
    monkeypatch.setattr(TextTokenizer, "load", lambda place, vocabulary=None: loaded(place.name, vocabulary))
    path = tmp_path / "m" / "sd3.5_large.safetensors"
    path.parent.mkdir()
    write_single_file(DenseEdit({}), folder, ModelLayout.of(folder), None, path, {})
    return path


def without(file: Path, *encoders: str, beside: bool = False) -> None:
    """Take text encoders out of a file; `beside`: put each into its own file beside it."""
    tensors = load_file(file)
    for name in encoders:
        start = f"text_encoders.{name}.transformer."
        own = {key.removeprefix(start): tensors.pop(key) for key in list(tensors) if key.startswith(start)}
        if beside:
            (file.parent / "text_encoders").mkdir(exist_ok=True)
            save_file(own, file.parent / "text_encoders" / f"{name}.safetensors")
    save_file(tensors, file)


def embedded(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    view = open_model(str(path), "cpu", "float32")
    return view.embed(TEXTS, at="all"), view.embed(TEXTS, at="pooled")


def assert_same(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def edited(file: Path, out: Path) -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]:
    """The tensors of a file before and after a command that erases and one that applies the edit."""
    words = ("--anchor", "cat", "--method", "uce", "--no-report", "--quiet")
    result = run("erase", "dog", "--model", file, *words, "--out", out)
    assert result.exit_code == 0, result.stderr
    result = run("apply", out / "edit.safetensors", "--out", out / "edited.safetensors")
    assert result.exit_code == 0, result.stderr
    return load_file(file), load_file(out / "edited.safetensors")


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key].double(), after[key].double())}


def test_an_all_in_one_file_is_read_edited_and_written_in_its_own_layout(file, folder, tmp_path) -> None:
    """Texts are read as from the folder; an edit changes its two entries alone; LoRAs have both tools' names."""
    assert recognised_title(str(file)) == "Stable Diffusion 3.5 large"
    assert_same(embedded(file), embedded(folder))
    assert changed(*edited(file, tmp_path / "o")) == TEXT_ENTRIES
    edit = tmp_path / "o/edit.safetensors"
    assert load_edit(edit).origin.base == file.name
    names = {"kohya": "lora_unet_context_embedder.lora_up.weight", "comfyui-lora": "transformer.context_embedder."}
    for to, name in names.items():
        result = run("export", edit, "--to", to, "--out", tmp_path / f"{to}.safetensors")
        assert result.exit_code == 0, result.stderr
        assert any(key.startswith(name) for key in load_file(tmp_path / f"{to}.safetensors"))


def test_a_file_without_text_encoders_says_which_are_missing(file) -> None:
    """As Stability publishes it: transformer and autoencoder. What is missing is one line, with where to put it."""
    without(file, "clip_l", "clip_g", "t5xxl")
    files = r"put clip_l\.safetensors, clip_g\.safetensors, t5xxl\.safetensors \(optional\) into .*/m/text_encoders,"
    with pytest.raises(ModelError, match=f"holds no text_encoder, text_encoder_2, text_encoder_3 .*{files}") as raised:
        open_model(str(file), "cpu")
    assert "\n" not in str(raised.value)


def test_text_encoders_beside_a_file_are_read(file, tmp_path) -> None:
    """In the folder that Stability publishes; the edited file has the layout of its base, without encoders."""
    wanted = embedded(file)
    without(file, *ENCODERS.values(), beside=True)
    t5 = file.parent / "text_encoders/t5xxl.safetensors"
    eight = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(t5).items()}
    t5.rename(t5.with_name("t5xxl_fp16.safetensors"))
    save_file(eight, t5.with_name("t5xxl_fp8_e4m3fn.safetensors"))
    assert_same(embedded(file), wanted)
    assert changed(*edited(file, tmp_path / "o")) == TEXT_ENTRIES


def test_an_edit_of_an_encoder_beside_a_file_is_not_written_into_the_file(file, tmp_path) -> None:
    without(file, "clip_l", beside=True)
    name = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    weight = open_model(str(file), "cpu").reference([name])[name]
    edit = DenseEdit({name: torch.ones_like(weight)})
    with pytest.raises(EditError, match=r"changes text_encoder\..*, which stands in .*clip_l\.safetensors, not in "):
        bake(edit, file, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_records_tell_models_with_other_text_encoders_apart(file) -> None:
    without(file, "t5xxl", beside=True)
    first = EditedModel(str(file), device="cpu").key
    t5 = file.parent / "text_encoders/t5xxl.safetensors"
    save_file({key: 2 * tensor for key, tensor in load_file(t5).items()}, t5)
    assert EditedModel(str(file), device="cpu").key != first


def test_a_file_without_t5_is_the_model_without_t5(file) -> None:
    """Stability publishes one with both CLIPs, and T5's states are zeros."""
    wanted, pooled = embedded(file)
    without(file, "t5xxl")
    assert recognised_title(str(file)) == "Stable Diffusion 3.5 large without t5xxl"
    found, still = embedded(file)
    assert torch.equal(found[:, :77], wanted[:, :77])
    assert not found[:, 77:].any()
    assert torch.equal(still, pooled)


@pytest.mark.slow
def test_pooled_text_of_clip_l_is_not_projected(file) -> None:
    """As diffusers and ComfyUI read these files, whatever projection stands in them."""
    wanted = embedded(file)
    tensors, name = load_file(file), "text_encoders.clip_l.transformer.text_projection.weight"
    save_file({**tensors, name: 3 * tensors[name], "text_encoders.clip_l.logit_scale": torch.ones(())}, file)
    assert_same(embedded(file), wanted)
    del tensors[name]
    save_file(tensors, file)
    assert_same(embedded(file), wanted)


def scaled(file: Path) -> None:
    """Store T5's matrices as 8-bit floats with scales, as ComfyUI publishes them."""
    start = "text_encoders.t5xxl.transformer."
    tensors = load_file(file)
    for key in [key for key in tensors if key.startswith(start) and ".SelfAttention." in key]:
        scale = tensors[key].abs().max() / 448
        tensors[key] = (tensors[key] / scale).to(torch.float8_e4m3fn)
        tensors[f"{key.removesuffix('weight')}scale_weight"] = scale
    tensors[f"{start}scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    save_file(tensors, file)


@pytest.mark.slow
def test_a_scaled_t5_is_read_and_stays_as_it_is(file, tmp_path) -> None:
    wanted, pooled = embedded(file)
    scaled(file)
    found, still = embedded(file)
    assert torch.equal(still, pooled)
    assert 1e-4 < (found - wanted).norm() / wanted.norm() < 0.05
    before, after = edited(file, tmp_path / "o")
    assert changed(before, after) == TEXT_ENTRIES


@pytest.mark.slow
@pytest.mark.parametrize("form", ["all in one", "beside", "scaled", "without T5"])
def test_pictures_are_the_folders(form, file, folder, tmp_path) -> None:
    """The built pipeline has the same networks, and reads texts with the packaged vocabularies."""
    base = folder
    if form == "beside":
        without(file, *ENCODERS.values(), beside=True)
    elif form == "scaled":
        scaled(file)
    elif form == "without T5":
        without(file, "t5xxl")
        base = shutil.copytree(folder, tmp_path / "base")
        shutil.rmtree(base / "text_encoder_3")
        shutil.rmtree(base / "tokenizer_3")
        told = {**read_config(base / "model_index.json"), "text_encoder_3": [None, None], "tokenizer_3": [None, None]}
        (base / "model_index.json").write_text(json.dumps(told))
    view, other = open_model(str(file), "cpu", "float32"), open_model(str(base), "cpu", "float32")
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    found, wanted = (model.sample(["a dog"], noise, 2, 3.0) for model in (view, other))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-2 if form == "scaled" else 1e-5)


def deeper() -> dict[str, tuple[int, ...]]:
    more = f"{PREFIX}joint_blocks.38.x_block.attn.qkv.weight"
    return {**telling(LARGE), more: (3 * 2432, 2432)}


@pytest.mark.parametrize(
    ("shapes", "metadata", "said"),
    [
        (deeper, {}, "its transformer's 233 tensors of texts, places and attentions have other names or shapes"),
        (
            lambda: {**telling(LARGE), f"{PREFIX}x_embedder.proj.weight": (2432, 33, 2, 2)},
            {},
            "its transformer takes 33 channels instead of the autoencoder's 16",
        ),
        (lambda: {**telling(LARGE), f"{PREFIX}pos_embed": (1, 9216, 2432)}, {}, "have other names or shapes"),
        (lambda: telling(LARGE), {"modelspec.prediction_type": "v"}, "it does not predict a flow"),
        (lambda: {**telling(LARGE), "v_pred": (1,)}, {}, "it does not predict a flow"),
    ],
)
def test_files_that_no_packaged_config_fits(shapes, metadata, said, tmp_path) -> None:
    path = write_hole(tmp_path / "m.safetensors", shapes(), metadata)
    with pytest.raises(ModelError, match=f"{said}: put the configs") as raised:
        config_folder(path)
    assert "\n" not in str(raised.value)


def test_a_cut_file_is_one_line(file) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="missing, cut short or damaged") as raised:
        open_model(str(file), "cpu")
    assert "\n" not in str(raised.value)


def test_a_damaged_encoder_beside_a_file_is_one_line(file) -> None:
    without(file, *ENCODERS.values(), beside=True)
    clip = file.parent / "text_encoders/clip_g.safetensors"
    save_file(dict(list(load_file(clip).items())[:-3]), clip)
    with pytest.raises(ModelError, match=r"text_encoder_2 needs 36 tensors of its layers .* is missing") as raised:
        open_model(str(file), "cpu")
    assert "\n" not in str(raised.value)
