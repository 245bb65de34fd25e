"""In which data type a model computes: what edits and trainings depend on in full precision, pictures in half.

Weights are held in the wide type. While pictures are drawn on an accelerator, denoiser and autoencoder compute in the
narrow one under torch's autocast; text encoders and the sampler's arithmetic stay wide.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, require

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class DtypePolicy:
    """The data types of a model."""

    computing: torch.dtype
    """Of weights, text encoders, text maps and whatever is trained."""
    drawing: torch.dtype
    """In which denoiser and autoencoder compute while pictures are drawn."""

    def __str__(self) -> str:
        computing, drawing = (str(dtype).removeprefix("torch.") for dtype in (self.computing, self.drawing))
        return computing if computing == drawing else f"{computing}, pictures in {drawing}"


def dtype_policy(name: str, device: torch.device) -> DtypePolicy:
    """The data types that a `--dtype` means on a device.

    "auto" is float32, and on CUDA float16 for pictures; every other name is one type for everything.
    """
    if name == "auto":
        return DtypePolicy(torch.float32, torch.float16 if device.type == "cuda" else torch.float32)
    dtype = named_dtype(name)
    return DtypePolicy(dtype, dtype)


def named_dtype(name: str) -> torch.dtype:
    """A data type by its name."""
    require(name in _DTYPES, f"dtype {name!r}: allowed are auto, {', '.join(_DTYPES)}", SettingsError)
    return _DTYPES[name]


@contextmanager
def drawing_in(dtype: torch.dtype, pipeline: Any, denoiser: nn.Module) -> Iterator[None]:
    """Inside, denoiser and autoencoder of a pipeline compute in a narrower type than their weights are held in.

    Their results are wide again. An autoencoder that its pipeline would keep in float32 stays in it.
    """
    wide = next(denoiser.parameters()).dtype
    with ExitStack() as stack:
        if dtype != wide:
            stack.enter_context(_computing_in(dtype, wide, denoiser, "forward"))
            if not (hasattr(pipeline, "upcast_vae") and pipeline.vae.config.force_upcast):
                stack.enter_context(_computing_in(dtype, wide, pipeline.vae, "decode"))
        yield


@contextmanager
def _computing_in(dtype: torch.dtype, wide: torch.dtype, module: nn.Module, method: str) -> Iterator[None]:
    """Inside, a method of a module runs under autocast. What it had on the instance is put back afterwards."""
    original: Callable[..., Any] = getattr(module, method)
    own, device = vars(module).get(method), next(module.parameters()).device.type

    @wraps(original)
    def narrow(*args: Any, **named: Any) -> Any:
        with torch.autocast(device, dtype), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # a norm's slower kernel
            found = original(*args, **named)
        return _widened(found, wide)

    setattr(module, method, narrow)
    try:
        yield
    finally:
        if own is None:
            delattr(module, method)
        else:
            setattr(module, method, own)


def _widened(found: Any, dtype: torch.dtype) -> Any:
    """The tensors of a diffusers result in a type; a result is a tuple, or a dictionary of its fields."""
    if isinstance(found, Tensor):
        return found.to(dtype)
    if isinstance(found, tuple):
        return tuple(_widened(part, dtype) for part in found)
    if hasattr(found, "items"):
        return type(found)(**{name: _widened(part, dtype) for name, part in found.items()})
    return found
