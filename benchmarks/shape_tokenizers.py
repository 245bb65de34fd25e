"""Tokenizers of the shapes of published models: CLIP's own, and a stand-in for T5's."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from unconcept.models.text.tokenizer import TextTokenizer
from unconcept.models.text.tokenizer_files import END_TOKEN, START_TOKEN

MERGES = 49152 - 256 - 2  # of CLIP's, out of more that its file holds


def write_clip_tokenizer(folder: Path, words: Path, pad: str) -> None:
    """Write CLIP's tokenizer, `tokenizer.json` too, from CLIP's own file of merges."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = gzip.decompress(words.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    letters = list(_letters())
    table = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair.split()) for pair in merges),
        START_TOKEN,
        END_TOKEN,
    ]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(table)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    told = {
        "model_max_length": 77,
        "bos_token": START_TOKEN,
        "eos_token": END_TOKEN,
        "pad_token": pad,
        "unk_token": END_TOKEN,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    TextTokenizer.load(folder).tokenizer.save(str(folder / "tokenizer.json"))


def _letters() -> Iterator[str]:
    """How byte-level tokenizers write the 256 bytes, in CLIP's order: those that can be seen as they are, then the
    others.
    """
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, seen)
    yield from (chr(256 + i) for i in range(256 - len(seen)))


def write_t5_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one token a letter in place of T5's, whose vocabulary is in no package.

    The length, which is what costs, is always 512.
    """
    from transformers import T5TokenizerFast

    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((chr(code), -3.0) for code in range(33, 127)),
    ]
    T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512).save_pretrained(folder)
