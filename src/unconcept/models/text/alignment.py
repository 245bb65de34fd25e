"""Pairs text states as UCE's script of 2023 does: from a subject's last token to the end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...linalg.moments import weigh_rows
from ..model_view import ModelView
from .state_rows import embed_together


def aligned_suffix_pairs(
    model: ModelView, targets: Sequence[str], anchors: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Rows (n, d) of each target from its last subject token on, and the rows (n, d) of its anchor paired with them.

    With weights, the rows of each target and of its anchor are scaled by the root of the target's weight.
    """
    old, new = zip(*aligned_suffix_rows(model, targets, anchors), strict=True)
    counts = [len(rows) for rows in old]
    return weigh_rows(torch.cat(old), weights, counts), weigh_rows(torch.cat(new), weights, counts)


def aligned_suffix_rows(model: ModelView, *parts: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """Rows (l, d) from the last subject token on, for each tuple of texts at the same index of equally long lists.

    The rows of a tuple are aligned at the subjects' last tokens, and longer ones are cut at their ends. If the
    denoiser does not read padding, they end with the text of the first list.
    """
    read = embed_together(model, *parts, at="all")
    last = (model.tokenizer(texts).index("last_subject") for texts in parts)
    first, length = model.tokenizer(parts[0]), read[0].shape[1]
    found = []
    for i, starts in enumerate(zip(*last, strict=True)):
        count = length - max(starts)
        if not model.tokenizer.reads_padding:
            count = min(count, len(first.ids[i]) - starts[0])
        found.append(tuple(rows[i, start : start + count] for rows, start in zip(read, starts, strict=True)))
    return found
