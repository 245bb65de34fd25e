"""The pairing of text states of the UCE script of 2023: a subject's last token and all that follows it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model_view import ModelView
from .state_rows import embed_together


def aligned_suffix_pairs(model: ModelView, targets: Sequence[str], anchors: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows of each target from its last subject token on, and beside each the row of its anchor: (n, d) both."""
    old, new = zip(*aligned_suffix_rows(model, targets, anchors), strict=True)
    return torch.cat(old), torch.cat(new)


def aligned_suffix_rows(model: ModelView, *parts: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """For the texts that stand beside each other in lists of one length: the rows (l, d) of each from its last subject
    token on.

    The rows are aligned at the subjects' last tokens, and the longer tails are cut at their ends; where no attention
    reads padding, at the end of the first list's texts.
    """
    read = embed_together(model, *parts, at="all")
    last = (model.tokenizer(texts).index("last_subject") for texts in parts)
    first, length = model.tokenizer(parts[0]), read[0].shape[1]
    found = []
    for i, starts in enumerate(zip(*last, strict=True)):
        count = length - max(starts)
        if not first.reads_padding:
            count = min(count, len(first.ids[i]) - starts[0])
        found.append(tuple(rows[i, start : start + count] for rows, start in zip(read, starts, strict=True)))
    return found
