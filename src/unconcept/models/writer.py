"""Write a safetensors file tensor by tensor: never more than one of them is in memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import ModelError, require

NAMES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"},
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class Slot:
    """A tensor that is made when its turn has come."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write_slots(path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> None:
    """Widest dtypes first, as safetensors itself orders them, so that every tensor is aligned."""
    order = sorted(slots, key=lambda name: (-slots[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        slot = slots[name]
        begin, end = end, end + torch.Size(slot.shape).numel() * slot.dtype.itemsize
        header[name] = {"dtype": NAMES[slot.dtype], "shape": list(slot.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = slots[name].make().detach().to("cpu", slots[name].dtype).contiguous()
            require(tuple(tensor.shape) == slots[name].shape, f"{name} has shape {tuple(tensor.shape)}, planned was {slots[name].shape}", ModelError)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
