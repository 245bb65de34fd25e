"""Tokenizers of the world's own: CLIP's byte-level BPE and T5's unigram model, trained on its captions."""

import json
import math
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = 3600  # words of the unigram model
LETTER = -15.0  # log-probability of a letter: below that of any word


def train_clip_tokenizer(texts: list[str], merges: int = 2000) -> CLIPTokenizer:
    """CLIP's byte-level BPE with word ends; start and end token come last, as in CLIP."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    words, letters = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    vocab = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, pairs), START, END]
    index = {piece: i for i, piece in enumerate(dict.fromkeys(vocab))}
    return CLIPTokenizer(vocab=index, merges=pairs, model_max_length=LENGTH, unk_token=END, pad_token=END)


def train_t5_tokenizer(texts: list[str]) -> T5Tokenizer:
    """A unigram model whose pieces are the PIECES most frequent words, and letters for all others; no sentinels.

    The trainer of `tokenizers` splits the words of so small a corpus in haphazard places.
    """
    counts = Counter(word for text in texts for word in text.split())
    total = sum(counts.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", LETTER)]
    pieces += [("▁" + word, math.log(count / total)) for word, count in counts.most_common(PIECES) if len(word) > 1]
    pieces += [(letter, LETTER) for letter in map(chr, range(33, 127))]
    pieces += [("▁" + letter, LETTER) for letter in map(chr, range(33, 127))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=None, model_max_length=LENGTH)


def save_clip_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Both forms: `tokenizer.json`, and the `vocab.json` and `merges.txt` that older libraries read."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
