"""Which safetensors files of a part (unet, text_encoder, ...) hold its weights: single or in shards, plain or a variant
(fp16, ...).
"""

import json
import re
from pathlib import Path

from ...core.errors import ModelError, require
from .safetensors_io import PICKLE_REMEDY, PICKLE_SUFFIXES, open_file

_NO_VARIANT = ""
_VARIANT_ORDER = (_NO_VARIANT, "fp16", "bf16", "fp32")  # in this order where nothing else decides
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")  # what diffusers and transformers load
_INDEX_PATTERN = "*.safetensors*.json"
_WEIGHT_FILE = re.compile(
    r"(?P<stem>[^.]+?)(?:\.(?P<variant>[^.]+?))?(?P<shard>-\d{5}-of-\d{5})?(?:\.(?P<late>[^.]+))?\.safetensors"
)
WEIGHT_PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def weight_variants(folder: Path) -> dict[str, Path]:
    """By variant the one file, or the index of its shards."""
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


def preferred_variant(variants: dict[str, Path]) -> str:
    """The plain one before its variants."""
    return min(
        variants, key=lambda name: (_VARIANT_ORDER.index(name) if name in _VARIANT_ORDER else len(_VARIANT_ORDER), name)
    )


def variant_of(model: Path) -> str:
    """The variant a diffusers folder is read in: plain, unless one of its parts is there as a variant alone.

    Parts without it are read plain.
    """
    parts = [found for part in WEIGHT_PARTS if (found := weight_variants(model / part))]
    return next((preferred_variant(found) for found in parts if _NO_VARIANT not in found), _NO_VARIANT)


def weight_file(model: Path, part: str) -> Path:
    """The file, or the index of the shards, that a part of a diffusers folder is read from."""
    return _stands(model / part, variant_of(model))


def weight_files(folder: Path) -> dict[str, Path]:
    """Where each tensor of a folder of weights stands: tensor name to file.

    The plain weights are read where there are variants besides.
    """
    return tensor_files(_stands(folder, _NO_VARIANT))


def _stands(folder: Path, variant: str) -> Path:
    """Where the wanted variant is not there, another."""
    found = weight_variants(folder)
    if not found:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLE_SUFFIXES]
        require(not pickled, f"{folder}: only {', '.join(pickled)}; {PICKLE_REMEDY}", ModelError)
        shards = [path.name for path in sorted(folder.glob("*.safetensors"))]
        require(
            not shards,
            f"{folder}: {', '.join(shards[:3])} without the index of the shards; give a complete diffusers folder",
            ModelError,
        )
        raise ModelError(f"{folder}: no .safetensors weights; give a complete diffusers folder")
    return found[variant if variant in found else preferred_variant(found)]


def tensor_files(path: Path) -> dict[str, Path]:
    """Tensor name to file, of one file or of an index."""
    if path.suffix != ".json":
        with open_file(path) as file:
            return dict.fromkeys(file.keys(), path)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{path}: {error!r}; this is no index of shards: give a complete diffusers folder") from None
    outside = [file for _, file in names if Path(file).name != file]
    require(
        not outside, f"{path}: its shard {outside[:1]} is not beside it; give a complete diffusers folder", ModelError
    )
    return {name: path.parent / file for name, file in names}
