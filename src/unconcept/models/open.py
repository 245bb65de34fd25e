"""Turn what a user types after `--model`, `--device` and `--dtype` into a view."""

from importlib import resources
from pathlib import Path

import torch

from ..core.errors import DeviceError, ModelError, SettingsError, require
from .stream import HOW_TO_CONVERT, PICKLES
from .unet import UNetView
from .view import ModelView

MOJI = "moji"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_model(source: str) -> Path:
    """The folder of `moji`, or the diffusers folder at a path."""
    if source == MOJI:
        return Path(str(resources.files("unconcept.moji") / "model"))
    path = Path(source).expanduser()
    require(path.exists(), f"model {source!r} is neither {MOJI!r} nor a path that exists; give a diffusers folder", ModelError)
    require(path.suffix not in PICKLES, f"model {source}: {HOW_TO_CONVERT}", ModelError)
    require(path.is_dir() and (path / "model_index.json").exists(), f"model {source} is no diffusers folder: it has no model_index.json", ModelError)
    return path


def find_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA, then MPS, then the CPU. `DeviceError` if a named one is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind, _, index = name.partition(":")
    known = ", ".join(["auto", *(k for k, present in there.items() if present)])
    usable = there.get(kind, False) and (not index or (kind == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count()))
    require(usable, f"device {name!r} is not there; on this machine: {known}", DeviceError)
    return torch.device(name)


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is float16 on CUDA, float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    require(name in DTYPES, f"dtype {name!r}: allowed are auto, {', '.join(DTYPES)}", SettingsError)
    return DTYPES[name]


def open_model(source: str = MOJI, device: str = "auto", dtype: str = "auto") -> ModelView:
    """Open a model without loading it: tensors are read when they are needed."""
    where = find_device(device)
    return UNetView.from_folder(find_model(source), source, where, find_dtype(dtype, where))
