"""Finds the safetensors files with a part's weights: a single file or shards, plain or a variant (fp16, ...).

A part is a folder of a model, such as unet or text_encoder.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import ModelError, require
from .safetensors_io import PICKLE_REMEDY, PICKLE_SUFFIXES, open_file

_NO_VARIANT = ""
_VARIANT_ORDER = (_NO_VARIANT, "fp16", "bf16", "fp32")  # order of preference
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")  # file names that diffusers and transformers load
_INDEX_PATTERN = "*.safetensors*.json"
_WEIGHT_FILE = re.compile(
    r"(?P<stem>[^.]+?)(?:\.(?P<variant>[^.]+?))?(?P<shard>-\d{5}-of-\d{5})?(?:\.(?P<late>[^.]+))?\.safetensors"
)
WEIGHT_PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def weight_variants(folder: Path) -> dict[str, Path]:
    """The weight file, or the index of its shards, for each variant in a folder."""
    found: dict[str, Path] = {}
    for index in sorted([*folder.glob(_INDEX_PATTERN), *folder.glob("*.safetensors.index.json")]):
        words = [word for word in index.name.split(".")[1:-1] if word not in ("safetensors", "index")]
        found.setdefault(".".join(words), index)
    names = {path: _WEIGHT_FILE.fullmatch(path.name) for path in folder.glob("*.safetensors")}
    whole = {path: match for path, match in names.items() if match and not match["shard"]}
    for path, match in sorted(
        whole.items(), key=lambda item: (item[1]["stem"] not in _WEIGHT_STEMS, len(item[0].name), item[0])
    ):
        found.setdefault(match["variant"] or _NO_VARIANT, path)
    return found


def chosen_weights(names: Sequence[str]) -> list[str]:
    """Of the files of a part, all shards of the weights to read: those of the preferred variant."""
    sets: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        if match := _WEIGHT_FILE.fullmatch(name):
            sets.setdefault((match["variant"] or match["late"] or _NO_VARIANT, match["stem"]), []).append(name)
    usual = {key: files for key, files in sets.items() if key[1] in _WEIGHT_STEMS} or sets
    if not usual:
        return []
    variant = preferred_variant({variant: Path() for variant, _ in usual})
    return next(files for (own, _), files in usual.items() if own == variant)


def preferred_variant(variants: dict[str, Path]) -> str:
    """The variant to read: the plain one if there is one, else the first of `_VARIANT_ORDER`."""
    return min(
        variants, key=lambda name: (_VARIANT_ORDER.index(name) if name in _VARIANT_ORDER else len(_VARIANT_ORDER), name)
    )


def variant_of(model: Path) -> str:
    """The variant in which to read a diffusers folder: plain, unless a part exists only as a variant.

    Parts without that variant are read plain.
    """
    parts = [found for part in WEIGHT_PARTS if (found := weight_variants(model / part))]
    return next((preferred_variant(found) for found in parts if _NO_VARIANT not in found), _NO_VARIANT)


def weight_file(model: Path, part: str) -> Path:
    """The file, or the index of shards, from which to read a part of a diffusers folder."""
    return _stands(model / part, variant_of(model))


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor in a folder of weights, by tensor name. Plain weights win over variants."""
    return tensor_files(_stands(folder, _NO_VARIANT))


def _stands(folder: Path, variant: str) -> Path:
    """The weight file of a folder in the given variant, or in another if that is missing."""
    found = weight_variants(folder)
    if not found:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLE_SUFFIXES]
        require(not pickled, f"{folder}: only {', '.join(pickled)}; {PICKLE_REMEDY}", ModelError)
        shards = [path.name for path in sorted(folder.glob("*.safetensors"))]
        require(
            not shards,
            f"{folder}: {', '.join(shards[:3])} without an index of shards; give a complete diffusers folder",
            ModelError,
        )
        raise ModelError(f"{folder}: no .safetensors weights; give a complete diffusers folder")
    return found[variant if variant in found else preferred_variant(found)]


def tensor_files(path: Path) -> dict[str, Path]:
    """The file of each tensor, by tensor name, from a weight file or an index of shards."""
    if path.suffix != ".json":
        with open_file(path) as file:
            return dict.fromkeys(file.keys(), path)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path}: {error!r}; this is not an index of shards: give a complete diffusers folder"
        ) from None
    outside = [file for _, file in names if Path(file).name != file]
    require(
        not outside, f"{path}: its shard {outside[:1]} is not beside it; give a complete diffusers folder", ModelError
    )
    return {name: path.parent / file for name, file in names}
