"""Reads and writes the tensors of safetensors files one by one: never a whole model, never a pickle."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ..layouts.packing import Packing
from .file_copy import writable_copy

_CHECKED_AT_ONCE = 1 << 22  # values
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
GGUF_REMEDY = "quantised GGUF files are not read; give the .safetensors file"
PICKLE_REMEDY = (
    "pickled checkpoints can run code when loaded; convert it where you trust it, with diffusers'"
    " save_pretrained(safe_serialization=True)"
)


@dataclass(frozen=True)
class TensorLocation:
    """The location of a tensor: its file, its name in it, and how it is packed and stored there."""

    file: Path
    name: str
    packing: Packing = Packing()
    scale: "TensorLocation | None" = None
    """A single number by which the stored tensor is multiplied."""
    is_eight_bit: bool = False
    """Whether it is stored as 8-bit floats, which are read as float32."""


@dataclass(frozen=True)
class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read from its file on every access; `ModelError` if it contains NaN or infinity."""

    places: Mapping[str, TensorLocation]
    device: torch.device | None = None  # None: the CPU
    dtype: torch.dtype | None = None  # None: the file's own

    def __getitem__(self, name: str) -> Tensor:
        return read_tensors(self.places, [name])[name].to(self.device, self.dtype)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows (..., d) of a table (v, d), which alone are converted and moved: the table itself can be gigabytes."""
        return F.embedding(ids.cpu(), read_tensors(self.places, [name])[name]).to(self.device, self.dtype)

    def __contains__(self, name: object) -> bool:
        return name in self.places  # Mapping's own method would read the tensor.

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def open_file(path: Path) -> Any:
    """Open a safetensors file; `ModelError` if it is missing or broken."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: {error}; the file is missing, cut short or damaged: download it again") from None


def read_tensors(places: Mapping[str, TensorLocation], names: Iterable[str]) -> dict[str, Tensor]:
    """Read the named tensors in their own dtype, 8-bit floats as float32 and with their scale.

    `ModelError` if one contains NaN or infinity.
    """
    wanted: dict[Path, list[str]] = {}
    for name in names:
        wanted.setdefault(places[name].file, []).append(name)
    tensors = {}
    for path, members in wanted.items():
        with open_file(path) as file:
            for name in members:
                tensors[name] = _scaled(_taken(file, places[name]), places[name].scale)
                message = (
                    f"{path}: {places[name].name} contains NaN or infinity; the checkpoint is damaged: download it"
                    " again"
                )
                require(is_finite(tensors[name]), message, ModelError)
    return tensors


def tensor_shapes(places: Mapping[str, TensorLocation]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors, without reading them."""
    found = {}
    for path in {place.file for place in places.values()}:
        with open_file(path) as file:
            for name, place in places.items():
                if place.file == path:
                    rows, *others = _slice(file, place).get_shape()
                    shape = (place.packing.span(rows)[1], *others)
                    found[name] = shape[::-1] if place.packing.transposed else shape
    return found


def _taken(file: Any, place: TensorLocation) -> Tensor:
    piece, laid = _slice(file, place), place.packing
    if laid.rows[2] == 1:
        stored = file.get_tensor(place.name)
    else:
        first, count = laid.span(piece.get_shape()[0])
        stored = piece[first : first + count]
    return laid.pack(widen_eight_bit(stored)).contiguous()


def widen_eight_bit(tensor: Tensor) -> Tensor:
    """Return 8-bit floats as float32, which is exact, and any other tensor as it is."""
    return tensor.float() if tensor.dtype in EIGHT_BIT_DTYPES.values() else tensor


def _scaled(tensor: Tensor, scale: TensorLocation | None) -> Tensor:
    """Multiply a tensor by the number that is stored as its scale."""
    if scale is None:
        return tensor
    (factor,) = read_tensors({"scale": scale}, ["scale"]).values()
    message = f"{scale.file}: {scale.name} has {factor.numel()} elements; only a scale of one number is read"
    require(factor.numel() == 1, message, ModelError)
    return tensor * factor.to(tensor.dtype).reshape(())


def _slice(file: Any, place: TensorLocation) -> Any:
    try:
        return file.get_slice(place.name)
    except SafetensorError:
        raise ModelError(f"{place.file} lacks {place.name}, which its index lists: download it again") from None


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite.

    A sum takes one pass and propagates every NaN and infinity. If it overflows by itself, each value is checked. Part
    by part, because torch makes a float32 copy of what it sums in float32.
    """
    parts = tensor.reshape(-1).split(_CHECKED_AT_ONCE)
    return all(torch.isfinite(part.sum(dtype=torch.float32)) or torch.isfinite(part).all() for part in parts)


def patch_file(source: Path, target: Path, tensors: Iterable[tuple[TensorLocation, Tensor]]) -> None:
    """Copy a safetensors file and overwrite some of its tensors; shapes, dtypes and all other bytes stay the same."""
    writable_copy(source, target)
    with target.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for place, tensor in tensors:
            told = header[place.name]
            begin, end = told["data_offsets"]
            first, count, parts = place.packing.rows
            laid = place.packing.pack(tensor.detach()).to("cpu", SAFETENSORS_DTYPES[told["dtype"]]).contiguous()
            data = laid.reshape(-1).view(torch.uint8).numpy().data
            message = (
                f"{source}: {place.name} has another shape than in the edit: give the model that the edit was made for"
            )
            require(len(data) * parts == (end - begin) * count, message, ModelError)
            file.seek(8 + size + begin + (end - begin) // parts * first)
            file.write(data)


_SAFETENSORS_NAMES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    },
}


SAFETENSORS_DTYPES = {name: dtype for dtype, name in _SAFETENSORS_NAMES.items()}
EIGHT_BIT_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # read, never written


def table_rows(tensors: Mapping[str, Tensor], name: str, ids: Tensor) -> Tensor:
    """Rows (..., d) of a table (v, d) at ids (...), of tensors in files or in memory."""
    if isinstance(tensors, LazyTensors):
        return tensors.rows(name, ids)
    return F.embedding(ids.to(tensors[name].device), tensors[name])


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor that is computed only when it is written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file. The same tensors give the same bytes, and the file has the umask's mode;
    safetensors' own writer shuffles its header, and only the owner may read its files.
    """
    slots = {name: DeferredTensor(tuple(t.shape), t.dtype, partial(Tensor.detach, t)) for name, t in tensors.items()}
    write_deferred_tensors(path, slots, metadata)


def write_deferred_tensors(path: Path, slots: Mapping[str, DeferredTensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file, computing one at a time.

    The widest dtypes come first, in safetensors' own order, so that every tensor is aligned.
    """
    order = sorted(slots, key=lambda name: (-slots[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        slot = slots[name]
        begin, end = end, end + torch.Size(slot.shape).numel() * slot.dtype.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = slots[name].make().detach().to("cpu", slots[name].dtype).contiguous()
            require(
                tuple(tensor.shape) == slots[name].shape,
                f"{name} has shape {tuple(tensor.shape)}, but {slots[name].shape} was planned",
                ModelError,
            )
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
