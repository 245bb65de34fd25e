"""The pairing of text states of the UCE script of 2023: a subject's last token and all that follows it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .rows import read_together
from .view import ModelView


def aligned_tails(model: ModelView, targets: Sequence[str], anchors: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows of each target from its last subject token on, and beside each the row of its anchor: (n, d) both.

    The rows are aligned at the subjects' last tokens, and the longer tail is cut at its end.
    """
    old, new = read_together(model, targets, anchors, at="all")
    rows_old, rows_new = [], []
    last = (model.tokenizer(texts).index("last_subject") for texts in (targets, anchors))
    for i, (a, b) in enumerate(zip(*last, strict=True)):
        count = old.shape[1] - max(a, b)
        rows_old.append(old[i, a : a + count])
        rows_new.append(new[i, b : b + count])
    return torch.cat(rows_old), torch.cat(rows_new)
