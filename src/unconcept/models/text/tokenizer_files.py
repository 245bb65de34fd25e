"""Reads the files of a tokenizer: directly if they are plain, else with the class that the stock pipeline uses.

Plain files say nothing beyond a vocabulary, so no library of models must be imported for them. Added tokens, such as
those of textual inversion, and special tokens with rules of their own go through transformers.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from ...core.errors import ModelError, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
# CLIP splits text into words by this before its byte-pair merges (Radford et al. 2021, released tokenizer).
_CLIP_WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_WORD_PATTERN_IN_FILES = rf"<\|startoftext\|>|<\|endoftext\|>|{_CLIP_WORD_PATTERN}"
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_EXTRA_NAMES = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
_RULES = ("lstrip", "rstrip", "single_word", "normalized")  # of an added token; each changes which texts match it


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], vocabulary: Path | None = None
) -> tuple[Tokenizer, int | None]:
    """Return the tokenizer of a folder, and its pad token's id if the files had to be read with transformers.

    `config` is the folder's tokenizer_config.json, `vocabulary` the folder of `tokenizer.json` or of CLIP's
    `vocab.json` and `merges.txt` if it is another.
    """
    specials, words = _plain_specials(folder, config), vocabulary or folder
    if specials is not None and (words / "tokenizer.json").exists():
        if _is_plain_file(json.loads((words / "tokenizer.json").read_text(encoding="utf-8")), specials, config):
            return Tokenizer.from_file(str(words / "tokenizer.json")), None
    elif specials is not None and (words / "vocab.json").exists() and _has_clip_ends(config):
        found = _read_clip_vocabulary(words)
        if all(found.token_to_id(token) is not None for token in specials):
            # OpenCLIP's pad is "!": transformers takes one in a text for the pad too, whatever word it follows.
            found.add_special_tokens([AddedToken(token, special=True) for token in sorted(specials)])
            return found, None
    loaded = _load_with_transformers(folder, config)
    return tokenizer_of(loaded), loaded.pad_token_id


def tokenizer_of(loaded: "PreTrainedTokenizerBase") -> Tokenizer:
    """The tokenizer inside one that transformers has loaded; `ModelError` if the pipeline rewrites texts before it."""
    found = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    added = {token.content for token in found.get_added_tokens_decoder().values()}
    written_out = sorted(token for token in added if f"{token}_1" in added)
    message = (
        f"the tokenizer's token {written_out[:1]} has several vectors, which the pipeline writes out in each prompt:"
        " load only embeddings of one vector, or leave them out of the model"
    )
    require(not written_out, message, ModelError)
    return found


def _load_with_transformers(folder: Path, config: Mapping[str, Any]) -> "PreTrainedTokenizerBase":
    from transformers import CLIPTokenizer, T5Tokenizer  # A second to import, which plain files do not need.

    is_t5 = str(config.get("tokenizer_class", "")).startswith("T5") or (folder / "spiece.model").exists()
    loaded: PreTrainedTokenizerBase = (T5Tokenizer if is_t5 else CLIPTokenizer).from_pretrained(
        str(folder), local_files_only=True
    )
    return loaded


def _plain_specials(folder: Path, config: Mapping[str, Any]) -> set[str] | None:
    """The special tokens that the config files name; None if they name other tokens, or rules for one."""
    if (folder / "added_tokens.json").exists() or "add_bos_token" in config or "add_eos_token" in config:
        return None
    special_map = folder / "special_tokens_map.json"
    tables = [config]
    if special_map.exists():
        tables.append(json.loads(special_map.read_text(encoding="utf-8")))
    tokens = [table[name] for table in tables for name in _SPECIAL_NAMES if table.get(name)]
    if any(table.get(name) for table in tables for name in _EXTRA_NAMES):
        return None
    if any(isinstance(token, dict) and _has_rules(token) for token in tokens):
        return None
    return set(map(_content, tokens))


def _has_clip_ends(config: Mapping[str, Any]) -> bool:
    ends = (_content(config.get("bos_token") or START_TOKEN), _content(config.get("eos_token") or END_TOKEN))
    return ends == (START_TOKEN, END_TOKEN)


def _content(token: Mapping[str, Any] | str) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _has_rules(token: Mapping[str, Any]) -> bool:
    return any(token.get(rule) for rule in _RULES)


def _is_plain_file(content: Mapping[str, Any], specials: set[str], config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json holds what transformers would make of its vocabulary alone."""
    added = content.get("added_tokens") or ()
    sentinels = {f"<extra_id_{i}>" for i in range(len(added))} & {token.get("content") for token in added}
    if not _are_plain_tokens(added, {*specials, *sentinels, START_TOKEN, END_TOKEN}):
        return False
    normalizer, words = content.get("normalizer"), _parts(content.get("pre_tokenizer"), "pretokenizers")
    if (content.get("model") or {}).get("type") == "BPE":
        pattern = words[0].get("pattern", {}).get("Regex") if len(words) == 2 else None
        kinds = [part.get("type") for part in _parts(normalizer, "normalizers")]
        return kinds == ["NFC", "Replace", "Lowercase"] and pattern == _CLIP_WORD_PATTERN_IN_FILES
    kinds = [part.get("type") for part in words]
    is_t5 = kinds == ["WhitespaceSplit", "Metaspace"] and config.get("extra_ids") == len(sentinels)
    return is_t5 and (normalizer is None or normalizer.get("type") == "Precompiled")


def _are_plain_tokens(added: Iterable[Mapping[str, Any]], known: set[str]) -> bool:
    return all(token.get("content") in known and token.get("special") and not _has_rules(token) for token in added)


def _parts(part: Mapping[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a sequence in a tokenizer.json; a part alone is a sequence of one."""
    if part is None:
        return []
    return list(part.get(name) or [dict(part)])


def _read_clip_vocabulary(folder: Path) -> Tokenizer:
    """Make CLIP's tokenizer from `vocab.json` and `merges.txt`."""
    bpe = BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), end_of_word_suffix="</w>", unk_token=END_TOKEN
    )
    tokenizer = Tokenizer(bpe)
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORD_PATTERN_IN_FILES), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(START_TOKEN, special=True), AddedToken(END_TOKEN, special=True)])
    start, end = ((token, tokenizer.token_to_id(token) or 0) for token in (START_TOKEN, END_TOKEN))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return tokenizer
