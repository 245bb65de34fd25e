"""Packs tensors of a diffusers folder into tensors of another layout, which may contain several of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ModelError, require


@dataclass(frozen=True)
class Packing:
    """The place of a tensor in another one.

    Queries, keys and values in one tensor have rows (0, 1, 3), (1, 1, 3) and (2, 1, 3).
    """

    rows: tuple[int, int, int] = (0, 1, 1)  # first part, number of parts, number of equal parts in all rows
    transposed: bool = False  # stored as its transpose
    halves_swapped: bool = False  # stored with its second half of rows first

    def pack(self, tensor: Tensor) -> Tensor:
        """Arrange the tensor as in the other layout. The operation is its own inverse."""
        tensor = tensor.T if self.transposed else tensor
        return torch.cat(tensor.chunk(2)[::-1]) if self.halves_swapped else tensor

    def unpack(self, whole: Tensor) -> Tensor:
        """Extract the tensor from the one that contains it."""
        return self.pack(whole.narrow(0, *self.span(whole.shape[0])))

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor that contains one of this shape."""
        shape = shape[::-1] if self.transposed else shape
        return (shape[0] // self.rows[1] * self.rows[2], *shape[1:]) if shape else shape

    def span(self, rows: int) -> tuple[int, int]:
        """First row and number of rows in a tensor with `rows` rows."""
        first, count, parts = self.rows
        return first * (rows // parts), count * (rows // parts)


def pack_members(members: Mapping[str, tuple[Tensor, Packing]]) -> Tensor:
    """Pack the members into one tensor, with zeros in the parts that no member fills."""
    tensor, laid = next(iter(members.values()))
    if laid.rows[2] == 1:
        return laid.pack(tensor)
    shape = laid.pack(tensor).shape
    found = tensor.new_zeros(shape[0] // laid.rows[1] * laid.rows[2], *shape[1:])
    for part, where in members.values():
        found.narrow(0, *where.span(found.shape[0])).copy_(where.pack(part))
    return found


def require_all_members(name: str, members: Mapping[str, Packing]) -> None:
    """Raise `ModelError` unless the members fill the tensor."""
    parts = max(laid.rows[2] for laid in members.values())
    filled = sum(laid.rows[1] for laid in members.values())
    require(
        filled == parts,
        f"{name} needs {parts} parts and has {filled}: {', '.join(members)}; the model is incomplete, give a complete"
        " one",
        ModelError,
    )
