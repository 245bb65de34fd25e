"""Read and write the tensors of safetensors files one by one: never a whole model, never a pickle."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import ModelError, require

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HOW_TO_CONVERT = "pickled checkpoints can run code when loaded; convert it where you trust it, with diffusers' save_pretrained(safe_serialization=True)"


def weight_files(folder: Path) -> dict[str, Path]:
    """Where each tensor of a part (unet, text_encoder, ...) stands: tensor name to file, shards and variants included."""
    index = sorted(folder.glob("*.safetensors.index*.json"))
    if index:
        names = json.loads(index[0].read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    files = sorted(folder.glob("*.safetensors"), key=lambda path: len(path.name))  # The plain one before its variants.
    if not files:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
        require(not pickled, f"{folder}: only {', '.join(pickled)}; {HOW_TO_CONVERT}", ModelError)
        raise ModelError(f"{folder}: no .safetensors weights; give a complete diffusers folder")
    with open_file(files[0]) as file:
        return dict.fromkeys(file.keys(), files[0])


def open_file(path: Path) -> Any:
    """`safe_open` with our errors: the file must exist and be whole."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: {error}; the file is missing, cut short or damaged: fetch it again") from None


def read(files: Mapping[str, Path], names: Iterable[str]) -> dict[str, Tensor]:
    """The named tensors in their own dtype. `ModelError` if one holds NaN or infinity."""
    wanted: dict[Path, list[str]] = {}
    for name in names:
        wanted.setdefault(files[name], []).append(name)
    tensors = {}
    for path, members in wanted.items():
        with open_file(path) as file:
            for name in members:
                tensors[name] = file.get_tensor(name)
                message = f"{path}: {name} holds NaN or infinity; the checkpoint is damaged"
                require(bool(torch.isfinite(tensors[name]).all()), message, ModelError)
    return tensors


def patch(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copy a safetensors file and overwrite some tensors in place: shapes and dtypes stay, all other bytes too."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        with open_file(source) as old:
            for name, tensor in tensors.items():
                dtype = old.get_tensor(name).dtype
                begin, end = header[name]["data_offsets"]
                data = tensor.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes()
                require(len(data) == end - begin, f"{source}: {name} has another shape than the edit's", ModelError)
                file.seek(8 + size + begin)
                file.write(data)
