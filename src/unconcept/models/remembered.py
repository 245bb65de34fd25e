"""States of texts that were asked for before: a method reads a text, its figures read it again, and encoding is what costs."""

from collections.abc import Callable, MutableMapping, Sequence

import torch
from torch import Tensor

from .tokens import Position


def remembered(
    known: MutableMapping[Position, dict[str, Tensor]] | None, texts: Sequence[str], at: Position, encode: Callable[[Sequence[str]], Tensor]
) -> Tensor:
    """`encode(texts)`, rows (n, d) of one named position, of which only those not yet `known` are encoded.

    Every position of a text is too much to keep: "all" is encoded anew, and so is everything where `known` is None.
    """
    if known is None or at == "all":
        return encode(texts)
    there = known.setdefault(at, {})
    new = [text for text in dict.fromkeys(texts) if text not in there]
    if new:
        there.update(zip(new, encode(new), strict=True))
    return torch.stack([there[text] for text in texts])
