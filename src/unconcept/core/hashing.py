"""Content hashes of tensors and of data.

A tensor's hash covers its values, not its dtype: fp16 and fp32 copies of the same values have the same hash.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def hash_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 over names, shapes and values in float64 (or float32 where that is exact), in sorted order."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        values = tensor.to("cpu", wide).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def hash_json(data: object) -> str:
    """SHA-256 of plain data as canonical JSON: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # Half characters are in names of files.
