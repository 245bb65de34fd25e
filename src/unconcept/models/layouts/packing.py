"""How a tensor of a diffusers folder lies in a tensor of another layout, which may hold several."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ModelError, require


@dataclass(frozen=True)
class Packing:
    """Queries, keys and values in one tensor are parts (0, 1, 3), (1, 1, 3) and (2, 1, 3) of its rows."""

    rows: tuple[int, int, int] = (0, 1, 1)  # the first of them, how many, of how many equal parts
    transposed: bool = False  # stored as its transpose
    halves_swapped: bool = False  # its first half of rows behind its second

    def pack(self, tensor: Tensor) -> Tensor:
        """As the other layout holds its rows; the way back is the same."""
        tensor = tensor.T if self.transposed else tensor
        return torch.cat(tensor.chunk(2)[::-1]) if self.halves_swapped else tensor

    def unpack(self, whole: Tensor) -> Tensor:
        """The tensor out of the one that holds it."""
        return self.pack(whole.narrow(0, *self.span(whole.shape[0])))

    def span(self, rows: int) -> tuple[int, int]:
        """First row and number of rows, of all `rows`."""
        first, count, parts = self.rows
        return first * (rows // parts), count * (rows // parts)


def pack_members(members: Mapping[str, tuple[Tensor, Packing]]) -> Tensor:
    """The one tensor that holds the members; zeros where none of them lies."""
    tensor, laid = next(iter(members.values()))
    if laid.rows[2] == 1:
        return laid.pack(tensor)
    shape = laid.pack(tensor).shape
    found = tensor.new_zeros(shape[0] // laid.rows[1] * laid.rows[2], *shape[1:])
    for part, where in members.values():
        found.narrow(0, *where.span(found.shape[0])).copy_(where.pack(part))
    return found


def require_all_members(name: str, members: Mapping[str, Packing]) -> None:
    """`ModelError` unless the members fill the tensor."""
    parts = max(laid.rows[2] for laid in members.values())
    filled = sum(laid.rows[1] for laid in members.values())
    require(
        filled == parts,
        f"{name} is made of {parts} parts, of which {filled} are there: {', '.join(members)}; the model is incomplete",
        ModelError,
    )
