"""Reads a judge's answers: what a part of the picture shows, how surely, and where."""

import torch
from torch import Tensor

from ...worlds.scenes import WHOLE, Box
from .judge_net import CELLS, Answers, JudgeLabels

NOTHING_LABEL = "nothing"
"""A judge's label for an image that shows nothing it knows."""
OCCUPIED = 0.5  # probability above which a cell shows something


def cells_of(part: Box) -> tuple[slice, slice]:
    """Rows and columns of the cells of a part of the picture."""
    left, top, right, bottom = (round(edge * CELLS) for edge in part)
    return slice(top, bottom), slice(left, right)


def shown_probability(answers: Answers, part: Box = WHOLE) -> Tensor:
    """That a part of the picture shows something (b,): the probability in its surest cell."""
    rows, columns = cells_of(part)
    return 1 - answers.objects.softmax(1)[:, -1, rows, columns].amin((1, 2))


def object_shares(answers: Answers, part: Box = WHOLE) -> Tensor:
    """Of the cells that show something in a part of the picture: the share of each label (b, labels)."""
    rows, columns = cells_of(part)
    shown = answers.objects.softmax(1)[:, :-1, rows, columns].sum((2, 3))
    return shown / shown.sum(1, keepdim=True).clamp_min(1e-6)


def object_words(answers: Answers, labels: JudgeLabels, part: Box = WHOLE) -> list[str]:
    """The label that fills most cells of a part; "nothing" where hardly a cell shows anything."""
    is_empty = (shown_probability(answers, part) < OCCUPIED) | (answers.count.argmax(1) == 0)
    guess = object_shares(answers, part).argmax(1).masked_fill(is_empty, len(labels.objects))
    words = (*labels.objects, NOTHING_LABEL)
    return [words[i] for i in guess.tolist()]


def object_centres(answers: Answers) -> Tensor:
    """Where each label is seen: its cells' mean place (b, labels, 2), x then y in [0, 1], weighted by probability."""
    shown = answers.objects.softmax(1)[:, :-1]
    weight = shown / shown.sum((2, 3), keepdim=True).clamp_min(1e-6)
    centres = ((torch.arange(CELLS) + 0.5) / CELLS).to(shown.device)
    return torch.stack([(weight.sum(2) * centres).sum(2), (weight.sum(3) * centres).sum(2)], 2)
