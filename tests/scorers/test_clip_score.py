"""CLIP score over real CLIP classes at toy size, against their own processors."""

import json
import shutil

import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel

from tests import tiny
from tests.classifier_toys import drop_tensor
from tests.toy_text import tokenizer
from unconcept.core.errors import ModelError
from unconcept.metrics.score_policies import argmax, log_softmax, probability
from unconcept.report.images import to_image
from unconcept.scorers.clip_score import ClipScore
from unconcept.scorers.features import ClipEmbedding

LABELS = ("cat", "dog", "bird")
TEXTS = ["a cat", "two birds on a wire", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth, 60 x 80, and exact in 8 bits, so that files and tensors hold the same."""
    coarse = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (60, 80), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def test_cosines_are_those_of_transformers_own_path(folder, pictures) -> None:
    """Pillow rounds to 8 bits after resizing, which we do not: hence the tolerance."""
    model, processor, tokens = (
        CLIPModel.from_pretrained(folder).eval(),
        CLIPImageProcessorPil.from_pretrained(folder),
        tokenizer(),
    )
    given = tokens(TEXTS, padding="max_length", return_tensors="pt")
    seen = processor([to_image(p) for p in pictures], return_tensors="pt")
    with torch.no_grad():
        out = model(**given, **seen)
    wanted = out.logits_per_image / model.logit_scale.exp()
    rows = ClipScore(folder, device="cpu").score(pictures, TEXTS)
    assert [row["asked"] for row in rows] == pytest.approx(wanted.diag().tolist(), abs=2e-3)
    assert torch.allclose(
        ClipEmbedding(folder, "cpu").features(pictures), torch.nn.functional.normalize(out.image_embeds), atol=5e-3
    )


def test_batches_do_not_matter(folder, pictures) -> None:
    scorer = ClipScore(folder, LABELS, device="cpu")
    together = scorer.score(pictures, TEXTS)
    for i, row in enumerate(together):
        alone = scorer.score(pictures[i : i + 1], TEXTS[i : i + 1])[0]
        assert alone["asked"] == pytest.approx(row["asked"], abs=2e-6)
        assert alone["labels"] == pytest.approx(row["labels"], abs=2e-6)


def test_labels_are_read_through_the_template(folder, pictures) -> None:
    scorer = ClipScore(folder, LABELS, "a {} here", device="cpu")
    rows = json.loads(json.dumps(scorer.score(pictures, ["a dog here"] * 3)))
    for row in rows:
        assert row["labels"][1] == pytest.approx(row["asked"], abs=2e-6)
        figures = log_softmax(row["labels"])
        assert argmax(figures, LABELS) == argmax(row["labels"], LABELS)
        assert sum(probability(figures, LABELS, [label]) for label in LABELS) == pytest.approx(1)


def test_long_texts_are_cut_at_what_the_network_holds(folder, pictures) -> None:
    scorer = ClipScore(folder, device="cpu")
    long, longer = "x" * 22, "x" * 90
    one, other = (scorer.score(pictures[:1], [text])[0]["asked"] for text in (longer, longer + "y"))
    assert one == other
    assert scorer.score(pictures[:1], [long])[0]["asked"] != one


def test_the_hash_is_of_the_weights_and_of_what_the_rows_list(folder, tmp_path) -> None:
    first, again = ClipScore(folder, device="cpu"), ClipEmbedding(folder, "cpu")
    assert first.hash == again.hash
    assert len({first.hash, *(ClipScore(folder, labels, device="cpu").hash for labels in (LABELS, LABELS[:2]))}) == 3
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-3
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(tmp_path)
    assert ClipScore(tmp_path, device="cpu").hash != first.hash


def test_folders_that_are_no_clip(folder, tmp_path) -> None:
    with pytest.raises(ModelError, match="holds no CLIP"):
        ClipScore(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled"):
        ClipScore(tmp_path, device="cpu")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="siglip"):
        ClipScore(tmp_path, device="cpu")
    shutil.copytree(folder, tmp_path / "part")
    drop_tensor(tmp_path / "part", "visual_projection.weight")
    with pytest.raises(ModelError, match=r"no whole CLIP: its weights lack visual_projection\.weight"):
        ClipScore(tmp_path / "part", device="cpu")


def test_an_openclip_folder_without_openclip(folder, tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError.__base__, match=r"unconcept\[eval\]"):
        ClipScore(tmp_path, device="cpu")


def test_an_openclip_folder(tmp_path, pictures) -> None:
    """The folder's own pre-processing and tokenizer, by OpenCLIP itself."""
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    from safetensors.torch import save_file

    vision = {"image_size": 48, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"]).eval()
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    loaded, prepare = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    with torch.no_grad():
        seen = loaded.encode_image(torch.stack([prepare(to_image(p)) for p in pictures]), normalize=True)
        said = loaded.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS), normalize=True)
    rows = ClipScore(tmp_path, device="cpu").score(pictures, TEXTS)
    assert [row["asked"] for row in rows] == pytest.approx((seen * said).sum(1).tolist(), abs=2e-3)
