"""Which safetensors files of a part (unet, text_encoder, ...) hold its weights: single or in shards, plain or a variant (fp16, ...)."""

import json
import re
from pathlib import Path

from ...core.errors import ModelError, require
from .safetensors_io import HOW_TO_CONVERT, PICKLES, open_file

PLAIN = ""
FIRST = (PLAIN, "fp16", "bf16", "fp32")  # in this order where nothing else decides
STEMS = ("diffusion_pytorch_model", "model")  # what diffusers and transformers load
INDEX = "*.safetensors*.json"
FILE = re.compile(r"(?P<stem>[^.]+?)(?:\.(?P<variant>[^.]+?))?(?P<shard>-\d{5}-of-\d{5})?(?:\.(?P<late>[^.]+))?\.safetensors")
PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def stored(folder: Path) -> dict[str, Path]:
    """By variant the one file, or the index of its shards."""
    found: dict[str, Path] = {}
    for index in sorted([*folder.glob(INDEX), *folder.glob("*.safetensors.index.json")]):
        words = [word for word in index.name.split(".")[1:-1] if word not in ("safetensors", "index")]
        found.setdefault(".".join(words), index)
    names = {path: FILE.fullmatch(path.name) for path in folder.glob("*.safetensors")}
    whole = {path: match for path, match in names.items() if match and not match["shard"]}
    for path, match in sorted(whole.items(), key=lambda item: (item[1]["stem"] not in STEMS, len(item[0].name), item[0])):
        found.setdefault(match["variant"] or PLAIN, path)
    return found


def preferred(variants: dict[str, Path]) -> str:
    """The plain one before its variants."""
    return min(variants, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def variant_of(model: Path) -> str:
    """The variant a diffusers folder is read in: plain, unless one of its parts is there as a variant alone. Parts without it are read plain."""
    parts = [found for part in PARTS if (found := stored(model / part))]
    return next((preferred(found) for found in parts if PLAIN not in found), PLAIN)


def chosen(model: Path, part: str) -> Path:
    """The file, or the index of the shards, that a part of a diffusers folder is read from."""
    return _stands(model / part, variant_of(model))


def weight_files(folder: Path) -> dict[str, Path]:
    """Where each tensor of a folder of weights stands: tensor name to file. The plain weights are read where there are variants besides."""
    return files_of(_stands(folder, PLAIN))


def _stands(folder: Path, variant: str) -> Path:
    """Where the wanted variant is not there, another."""
    found = stored(folder)
    if not found:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
        require(not pickled, f"{folder}: only {', '.join(pickled)}; {HOW_TO_CONVERT}", ModelError)
        shards = [path.name for path in sorted(folder.glob("*.safetensors"))]
        require(not shards, f"{folder}: {', '.join(shards[:3])} without the index of the shards; give a complete diffusers folder", ModelError)
        raise ModelError(f"{folder}: no .safetensors weights; give a complete diffusers folder")
    return found[variant if variant in found else preferred(found)]


def files_of(path: Path) -> dict[str, Path]:
    """Tensor name to file, of one file or of an index."""
    if path.suffix != ".json":
        with open_file(path) as file:
            return dict.fromkeys(file.keys(), path)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{path}: {error!r}; this is no index of shards: give a complete diffusers folder") from None
    outside = [file for _, file in names if Path(file).name != file]
    require(not outside, f"{path}: its shard {outside[:1]} is not beside it; give a complete diffusers folder", ModelError)
    return {name: path.parent / file for name, file in names}
