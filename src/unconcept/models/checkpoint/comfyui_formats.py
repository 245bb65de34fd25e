"""ComfyUI's marks of quantised layers, and the one kind of them that is read: 8-bit floats with one scale a tensor.

A layer `x` is marked by JSON such as `{"format": "float8_e4m3fn"}`: as bytes in a tensor `x.comfy_quant`, or under
`layers` in the file's header. Its `x.weight` is then multiplied by the number in `x.weight_scale`; `x.input_scale`
only matters where activations are 8-bit too (ComfyUI, QUANTIZATION.md).
"""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ...core.errors import ModelError, require
from .safetensors_io import open_file

_MARK = "comfy_quant"  # last part of the name of a mark
_HEADER = "_quantization_metadata"
_SCALE = "weight_scale"
_READ_FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}  # by the dtype of their tensors
_SCALE_DTYPES = ("F32", "F16", "BF16")
_FREE_SETTINGS = ("format", "full_precision_matrix_mult")  # The latter only tells how to multiply.
_REMEDY = "only float8 with one scale a tensor is read: give that, or plain weights"


def scaled_layers(files: Mapping[str, Path]) -> dict[str, str]:
    """The names of the scales of marked weights, by weight. `files` are the files of all tensors.

    `ModelError` names the format of a layer that is not read. Files that do not exist are passed over.
    """
    marks: dict[str, dict[str, Any]] = {}
    for path in dict.fromkeys(files.values()):
        if path.exists():
            marks |= _marks(path)
    found = {f"{layer}.weight": f"{layer}.{_SCALE}" for layer in marks}
    stored = _stored(files, {*found, *found.values()})
    for layer, told in marks.items():
        _require_read(layer, told, files, stored)
    return found


def companions_of(weight: str) -> tuple[str, ...]:
    """The names of what stands beside a marked weight."""
    layer = weight.removesuffix("weight")
    return tuple(f"{layer}{leaf}" for leaf in (_SCALE, "input_scale", _MARK))


def _marks(path: Path) -> dict[str, dict[str, Any]]:
    """What a file tells of its quantised layers, by layer."""
    with open_file(path) as file:
        found = dict(_header_marks(path, (file.metadata() or {}).get(_HEADER, '{"layers": {}}')))
        for name in file.keys():
            layer, _, leaf = name.rpartition(".")
            if leaf == _MARK:
                told = _parsed(path, name, bytes(file.get_tensor(name).flatten().tolist()))
                require(found.setdefault(layer, told) == told, f"{path}: {name} and the header differ", ModelError)
    return found


def _header_marks(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    told = _parsed(path, _HEADER, text)
    layers = told.get("layers")
    if not str(told.get("format_version", "1.0")).startswith("1.") or not isinstance(layers, dict):
        raise ModelError(f"{path}: {_HEADER} in its header is of an unknown version; {_REMEDY}")
    for layer, mark in layers.items():
        require(isinstance(mark, dict), f"{path}: {_HEADER} tells no format of {layer}; {_REMEDY}", ModelError)
        yield layer, mark


def _parsed(path: Path, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        told = {}
    message = f"{path}: {name} is no mark of ComfyUI's quantised formats that can be read; {_REMEDY}"
    require(isinstance(told, dict) and bool(told), message, ModelError)
    return told


def _require_read(
    layer: str,
    told: Mapping[str, Any],
    files: Mapping[str, Path],
    stored: Mapping[str, tuple[str, int]],
) -> None:
    """Raise `ModelError` unless a marked layer is stored as 8-bit floats with one scale."""
    kind, more = told.get("format"), [name for name in told if name not in _FREE_SETTINGS and told[name]]
    label = f"{kind}{' with ' * bool(more)}{', '.join(f'{name} {told[name]}' for name in more)}"
    message = f"{layer} is stored in ComfyUI's quantised format {label}, which is not read; {_REMEDY}"
    require(kind in _READ_FORMATS and not more, message, ModelError)
    weight, scale = f"{layer}.weight", f"{layer}.{_SCALE}"
    for name in (weight, scale):
        require(name in files, f"{layer} is marked as {kind}, and {name} is missing; {_REMEDY}", ModelError)
    wanted = _READ_FORMATS[str(kind)]
    dtype, _ = stored.get(weight, (wanted, 1))
    require(dtype == wanted, f"{files[weight]}: {weight} is marked as {kind}, but it is {dtype}; {_REMEDY}", ModelError)
    dtype, count = stored.get(scale, ("F32", 1))
    message = f"{files[scale]}: {layer} is stored as {kind} with {count} scales ({dtype}), by rows or blocks; {_REMEDY}"
    require(dtype in _SCALE_DTYPES and count == 1, message, ModelError)


def _stored(files: Mapping[str, Path], names: set[str]) -> dict[str, tuple[str, int]]:
    """Dtype and number of elements of the named tensors whose files exist."""
    found: dict[str, tuple[str, int]] = {}
    for path in {files[name] for name in names if name in files}:
        if path.exists():
            with open_file(path) as file:
                pieces = {name: file.get_slice(name) for name in names if files.get(name) == path}
                found |= {name: (piece.get_dtype(), prod(piece.get_shape())) for name, piece in pieces.items()}
    return found
