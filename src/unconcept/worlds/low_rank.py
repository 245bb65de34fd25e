"""Weights of an embedded model that are another one's plus a low-rank change of each matrix."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ..core.errors import ModelError, require
from ..core.hashing import hash_tensors

BASE = "base"  # the metadata entry with the hash of the weights that a change was made for


def add_pairs(weights: Mapping[str, Tensor], pairs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + up @ down in float32 for each pair NAME.up (o, r), NAME.down (r, d); a convolution counts as a matrix."""
    found = dict(weights)
    for name in pairs:
        if name.endswith(".up"):
            full = name.removesuffix(".up")
            change = pairs[name].float() @ pairs[f"{full}.down"].float()
            found[full] = weights[full].float() + change.view_as(weights[full])
    return found


def write_merged(base: Path, own: Path, target: Path) -> None:
    """Write the weights of `base` with the change `own` in their dtype; `ModelError` if it was made for others."""
    weights, pairs = load_file(base), load_file(own)
    with safe_open(own, "pt") as file:
        made_for = (file.metadata() or {}).get(BASE, "")
    message = f"{own} was made beside other weights than {base}: install one version of the package with both"
    require(made_for == hash_tensors(weights), message, ModelError)
    merged = add_pairs(weights, pairs)
    tensors = {name: t.to(weights[name].dtype).contiguous() for name, t in merged.items()}
    target.write_bytes(save(tensors, {"format": "pt"}))
