"""Token ids are the stock pipeline's for any text, whatever a tokenizer's files add; or the tokenizer is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, T5TokenizerFast

from tests import tiny, toy_text
from unconcept.core import Request
from unconcept.core.errors import ModelError
from unconcept.methods.uce import UCE
from unconcept.models import open_model
from unconcept.models.text.tokenizer import TextTokenizer
from unconcept.worlds.registry import embedded_world

GIZMO, RULED = "<gizmo>", {"content": "<|startoftext|>", "lstrip": False, "normalized": True, "rstrip": True}


def put(folder: Path, name: str, **more: object) -> None:
    """Add to a JSON file of a folder, or make it."""
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **more}))


def old_clip(folder: Path) -> Path:
    """As older libraries wrote it: vocab.json and merges.txt."""
    toy_text.tokenizer(pad="!</w>").save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer.json").unlink()
    return folder


def added_file(folder: Path) -> Path:
    put(old_clip(folder), "added_tokens.json", **{GIZMO: 75})
    return folder


def added_entry(folder: Path) -> Path:
    """In the config, as transformers 4.34 and later wrote it."""
    entry = {
        "content": GIZMO,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
        "special": False,
    }
    put(old_clip(folder), "tokenizer_config.json", added_tokens_decoder={"75": entry})
    return folder


def special_map(folder: Path) -> Path:
    put(old_clip(folder), "special_tokens_map.json", bos_token=RULED, additional_special_tokens=[GIZMO])
    return folder


def plain_end_padding(folder: Path) -> Path:
    put(old_clip(folder), "tokenizer_config.json", pad_token="<|endoftext|>")
    return folder


def saved_with_token(folder: Path) -> Path:
    """After `load_textual_inversion`, by transformers 5: in tokenizer.json."""
    tokens = toy_text.tokenizer()
    tokens.add_tokens([GIZMO])
    tokens.save_pretrained(folder)
    return folder


def plain_clip(folder: Path) -> Path:
    toy_text.tokenizer(pad="!</w>").save_pretrained(folder)
    return folder


def plain_t5(folder: Path) -> Path:
    toy_text.t5(16)[1].save_pretrained(folder)
    return folder


def t5_with_sentinels(folder: Path) -> Path:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((x, -3.0) for x in toy_text.LETTERS)]
    T5TokenizerFast(vocab=vocab, extra_ids=3, model_max_length=64).save_pretrained(folder)
    return folder


def moji(folder: Path) -> Path:
    return embedded_world("moji").shipped_folder / "tokenizer"


MAKERS = {
    make.__name__: make
    for make in (
        plain_clip,
        plain_end_padding,
        old_clip,
        added_file,
        added_entry,
        special_map,
        saved_with_token,
        plain_t5,
        t5_with_sentinels,
        moji,
    )
}
PIECES = [
    GIZMO,
    "<Gizmo>",
    "gizmo",
    "<|startoftext|>",
    "<|ENDOFTEXT|>",
    "<extra_id_1>",
    "</s>",
    "!</w>",
    "!",
    "Zo\u0065\u0301",
    "\u03a3",
    " ",
    "\n",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=6).map("".join)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The stock tokenizer and ours of each folder."""
    found = {}
    for name, make in MAKERS.items():
        folder = make(tmp_path_factory.mktemp(name))
        stock = T5TokenizerFast if "t5" in name else CLIPTokenizer
        found[name] = stock.from_pretrained(folder), TextTokenizer.load(folder)
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), TEXTS)
def test_ids_are_the_pipelines(pairs, name, text) -> None:
    stock, ours = pairs[name]
    assert ours.encode([text])[0] == tuple(stock(text).input_ids)
    assert ours.pad == stock.pad_token_id
    assert TextTokenizer.of(stock).encode([text]) == ours.encode([text])


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_each_piece_is_read_alike(pairs, name) -> None:
    stock, ours = pairs[name]
    for text in (*PIECES, "a <gizmo>", "hat!", "a<gizmo>b", "<extra_id_0> hat"):
        assert ours.encode([text])[0] == tuple(stock(text).input_ids), text


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_pixart_reads_what_its_pipeline_makes_of_a_text(text) -> None:
    """It puts texts in lower case before the tokenizer, added tokens included."""
    view = tiny.shared("pixart")
    made = view.pipeline._text_preprocessing(text)[0]
    assert view.tokenizer.encode([text])[0] == tuple(view.pipeline.tokenizer(made).input_ids)


def test_a_learned_token_is_one_token_of_the_opened_model(tmp_path) -> None:
    """Spelled out by letters, an edit of it would leave the learned embedding as it is."""
    folder = tiny.folder("sd1", tmp_path / "m", old=True)
    file, config = folder / "text_encoder/model.safetensors", folder / "text_encoder/config.json"
    weights = load_file(file)
    key = next(name for name in weights if name.endswith("token_embedding.weight"))
    count, width = weights[key].shape
    weights[key] = torch.cat([weights[key], torch.randn(1, width)])
    save_file(weights, file, metadata={"format": "pt"})
    put(folder / "text_encoder", config.name, vocab_size=count + 1)
    put(folder / "tokenizer", "added_tokens.json", **{GIZMO: count})
    view = open_model(str(folder))
    ids = view.tokenizer([f"a {GIZMO}"]).ids[0]
    assert ids == tuple(CLIPTokenizer.from_pretrained(folder / "tokenizer")(f"a {GIZMO}").input_ids)
    assert ids[-2] == count
    assert torch.isfinite(view.embed([f"a {GIZMO}"])).all()


def test_a_token_of_several_vectors_is_refused(tmp_path) -> None:
    """Diffusers writes it out in each prompt before the tokenizer."""
    put(old_clip(tmp_path), "added_tokens.json", **{GIZMO: 75, f"{GIZMO}_1": 76})
    with pytest.raises(ModelError, match=r"token \['<gizmo>'\] has several vectors"):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_a_token_that_one_of_two_tokenizers_has_is_refused(family) -> None:
    """The denoiser reads both encoders' states side by side, and its pipeline lets them shift."""
    pipe = tiny.pipeline(family)
    view = open_model(pipe)
    assert len(view.tokenizers) >= 2
    pipe.tokenizer_2.add_tokens([GIZMO])
    with pytest.raises(ModelError, match=r"one of its tokenizers has the token \['<gizmo>'\], another has not"):
        UCE().erase(open_model(pipe), Request(("dog",), ("cat",)))
    pipe.tokenizer.add_tokens([GIZMO])
    assert open_model(pipe).tokenizers[0].words == open_model(pipe).tokenizers[1].words


@pytest.mark.parametrize("text", ["[]", "{"])
def test_broken_added_tokens_are_one_line(tmp_path, text) -> None:
    (old_clip(tmp_path) / "added_tokens.json").write_text(text)
    with pytest.raises(ModelError, match=r"^tokenizer [^\n]*$"):
        TextTokenizer.load(tmp_path)


def test_plain_files_need_no_library_of_models(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for make in (plain_clip, plain_end_padding, plain_t5, moji):
        folder = tmp_path / make.__name__
        folder.mkdir()
        assert TextTokenizer.load(make(folder)).encode(["hat"])
