"""A folder's weights in shards and variants: what is read is what diffusers loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tests import tiny
from unconcept.core.errors import ModelError
from unconcept.models import open_model
from unconcept.models.checkpoint.weight_files import variant_of, weight_variants

TEXTS = ["dog face", "", "a moon"]


def pipe(seed: int = 0, family: str = "sd1") -> DiffusionPipeline:
    return tiny.pipeline(family, seed)


def agrees(folder: Path, variant: str | None, dtype: torch.dtype) -> None:
    """The view's maps are bitwise those of the pipeline diffusers builds, before and after it builds its own."""
    view = open_model(str(folder), "cpu", "float32")
    maps = dict(view.text_maps())
    assert {w.dtype for w in maps.values()} == {dtype}
    stock = DiffusionPipeline.from_pretrained(folder, local_files_only=True, variant=variant, dtype=torch.float32)
    live = {f"unet.{name}": p for name, p in stock.unet.named_parameters()}
    assert all(torch.equal(w.float(), live[name]) for name, w in maps.items())
    own = {f"unet.{name}": p for name, p in view.modules("unet").named_parameters()}
    assert all(torch.equal(own[name], p) for name, p in live.items())
    with torch.no_grad():
        states = stock.encode_prompt(TEXTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]
        assert torch.allclose(view.embed(TEXTS, at="all"), states, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
def test_a_variant_alone_is_read(variant, dtype, shards, tmp_path) -> None:
    pipe().to(dtype=dtype).save_pretrained(tmp_path, variant=variant, max_shard_size="100KB" if shards else "5GB")
    assert bool(list((tmp_path / "unet").glob("*.index*.json"))) == shards
    assert variant_of(tmp_path) == variant
    agrees(tmp_path, variant, dtype)


def test_the_plain_weights_come_before_their_variants(tmp_path) -> None:
    """Also where the plain ones are whole and the variant is in shards."""
    pipe(1).to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16", max_shard_size="100KB")
    pipe(0).save_pretrained(tmp_path)
    assert variant_of(tmp_path) == ""
    agrees(tmp_path, None, torch.float32)


def test_shards_are_read_and_an_absent_one_is_named_only_where_it_is_needed(tmp_path) -> None:
    pipe().save_pretrained(tmp_path, max_shard_size="60KB")
    agrees(tmp_path, None, torch.float32)
    index = next((tmp_path / "unet").glob("*.index.json"))
    names = json.loads(index.read_text())["weight_map"]
    needed = {file for name, file in names.items() if "attn2.to_" in name}
    (spare,) = set(names.values()) - needed
    (tmp_path / "unet" / spare).unlink()
    view = open_model(str(tmp_path), "cpu")
    assert len(dict(view.text_maps())) == 8
    gone = sorted(needed)[0]
    (tmp_path / "unet" / gone).unlink()
    with pytest.raises(ModelError, match=f"{gone}.*missing, cut short or damaged"):
        dict(view.text_maps())


def test_one_part_as_a_variant_alone(tmp_path) -> None:
    """The text encoder only in half precision, the UNet only plain."""
    pipe().save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    save_file(
        {name: t.half() for name, t in load_file(file).items()},
        file.with_name("model.fp16.safetensors"),
        metadata={"format": "pt"},
    )
    file.unlink()
    agrees(tmp_path, "fp16", torch.float32)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("model.safetensors", "model.fp16.safetensors"), {"": "model.safetensors", "fp16": "model.fp16.safetensors"}),
        (
            ("model.safetensors", "model.safetensors.index.fp16.json"),
            {"": "model.safetensors", "fp16": "model.safetensors.index.fp16.json"},
        ),
        (
            ("diffusion_pytorch_model.safetensors.fp16.index.json",),
            {"fp16": "diffusion_pytorch_model.safetensors.fp16.index.json"},
        ),
        (("model-00001-of-00002.fp16.safetensors", "model.fp16-00002-of-00002.safetensors"), {}),
        (("adapter.safetensors", "model.safetensors"), {"": "model.safetensors"}),
        (("diffusion_pytorch_model.non_ema.safetensors",), {"non_ema": "diffusion_pytorch_model.non_ema.safetensors"}),
    ],
)
def test_names(files, found, tmp_path) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert {variant: path.name for variant, path in weight_variants(tmp_path).items()} == found


def test_broken_indexes(tmp_path) -> None:
    pipe().save_pretrained(tmp_path, max_shard_size="100KB")
    index = next((tmp_path / "unet").glob("*.index.json"))
    whole = index.read_text()
    for text, said in (
        ("{", "not an index of shards"),
        ("[]", "not an index of shards"),
        (whole.replace("diffusion_pytorch_model-", "../vae/x-"), "is not beside it"),
    ):
        index.write_text(text)
        with pytest.raises(ModelError, match=said):
            open_model(str(tmp_path), "cpu").text_maps()
    index.unlink()
    with pytest.raises(ModelError, match="without an index of shards"):
        open_model(str(tmp_path), "cpu").text_maps()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_cached_hub_id_is_opened_and_no_other_is_fetched(family, tmp_path, monkeypatch) -> None:
    """The cache as huggingface_hub lays it out: a snapshot of links to blobs."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    home, commit = tmp_path / "models--tiny--model", "0" * 40
    tiny.folder(family, home / "real")
    (home / "refs").mkdir()
    (home / "refs/main").write_text(commit)
    for file in (path for path in (home / "real").rglob("*") if path.is_file()):
        place = home / "snapshots" / commit / file.relative_to(home / "real")
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = home / "blobs" / place.as_posix().replace("/", "_")
        blob.parent.mkdir(exist_ok=True)
        shutil.move(file, blob)
        place.symlink_to(blob)
    view = open_model("tiny/model", "cpu", "float32")
    assert len(dict(view.text_maps())) == 8
    assert view.name == "tiny/model"
    with pytest.raises(ModelError, match="--offline or HF_HUB_OFFLINE forbids to fetch it"):
        open_model("tiny/other", "cpu")
