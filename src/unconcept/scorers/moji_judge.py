"""moji-judge: tells what an image of an embedded model shows: objects, style, background, count and order.

It was trained on composed artwork, not on generated images. One row of figures an image answers every question;
policies decide later what the image shows.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..metrics.score_policies import argmax, largest_share, ordered_pair
from ..models.vision.judge_answers import OCCUPIED, object_centres, object_shares, shown_probability
from ..models.vision.judge_net import Answers, image_embeddings, judge_answers, load_judge_net
from ..prompts.checks import ORDER_WORDS, Check, JudgedAspect
from ..worlds.registry import JUDGE_WEIGHTS
from ..worlds.scenes import ABOVE, BELOW, COUNTS, LEFT, RIGHT, WHOLE, Box, one_phrase, scene_caption
from .registry import NOTHING_LABEL, AnswerReader, RawScore, scorer

_PARTS: dict[JudgedAspect, Box] = {"object": WHOLE, "left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}
_HEADS: dict[JudgedAspect, str] = {"style": "styles", "background": "backgrounds", "count": "counts"}
_AXES: dict[JudgedAspect, str] = {"left-right": "x", "above-below": "y"}
_QUESTION = "scene"  # of every check: one row an image
_KEPT = 4  # largest shares of each part that a row keeps


def _ask_scene(check: Check) -> str:
    return _QUESTION


def _read_row(opened: "JudgeScore", raw: RawScore, check: Check) -> str:
    return opened.answer(raw, check.by)


_READER = AnswerReader(
    _read_row,
    aspects=frozenset({*_PARTS, *_HEADS, *_AXES}),
    question=_ask_scene,
    answers="table",
    measures={
        "clip": "moji-clip",
        "embedding": "moji-judge-embedding",
        "pair": "moji-judge-features",
        "captions": "moji-judge",
    },
)


@scorer("moji-judge", reads="picture", reader=_READER)
class JudgeScore:
    """Scores objects, style, background and count of an image of an embedded model, and where its objects are.

    A row has, for each part (`object` is the whole image), the probability that it shows anything and the largest
    shares of labels; the mean places of those of the whole; and the log-probabilities of the other heads. `labels`
    names the figures of each head, for the policies of `metrics/score_policies.py`.
    """

    name = "moji-judge"
    version = 2

    def __init__(self, path: Path | None = None) -> None:
        self.net, known = load_judge_net(path or JUDGE_WEIGHTS)
        self.hash = hash_tensors(self.net.state_dict())
        self.labels = {
            "objects": known.objects,
            "styles": (*known.styles, NOTHING_LABEL),
            "backgrounds": (*known.backgrounds, NOTHING_LABEL),
            "counts": (NOTHING_LABEL, "one", *COUNTS.values()),
        }

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return a row an image of (b, 3, 64, 64) in [0, 1], 3 decimals; every question is "scene"."""
        unknown = sorted({*asked} - {_QUESTION})
        require(not unknown, f"moji-judge: unknown question {unknown[:1]} about an image: ask {_QUESTION!r}")
        require(len(asked) == len(pictures), f"{len(asked)} questions about {len(pictures)} images: give one for each")
        return _rows(judge_answers(self.net, pictures))

    def answer(self, row: RawScore, by: JudgedAspect) -> str:
        """What a row says about an aspect of its image: a label, or "nothing"; for an order "fox left of key"."""
        if by in _HEADS:
            return argmax(row[_HEADS[by]], self.labels[_HEADS[by]])
        is_empty = argmax(row["counts"], self.labels["counts"]) == NOTHING_LABEL
        part = row["parts"]["object" if by in _AXES else by]
        shown = 0.0 if is_empty else part["shown"]
        label = largest_share(part["shares"], self.labels["objects"], shown, NOTHING_LABEL, OCCUPIED)
        if by not in _AXES or label == NOTHING_LABEL:
            return label
        return ORDER_WORDS[by].join(ordered_pair(part["shares"], row[_AXES[by]], self.labels["objects"]))

    def captions(self, pictures: Tensor) -> list[str]:
        """Return what each image shows in the words of a caption: object, style and background, as far as it tells."""
        return [self._caption(row) for row in self.score(pictures, [_QUESTION] * len(pictures))]

    def _caption(self, row: RawScore) -> str:
        said = [self.answer(row, aspect) for aspect in ("object", "style", "background")]
        name, style, background = (None if word == NOTHING_LABEL else word for word in said)
        return scene_caption(one_phrase(name or NOTHING_LABEL, article=name is not None), style, background)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Return the judge's features before its heads, (b, 256) float32."""
        return image_embeddings(self.net, pictures)


def _rows(answers: Answers) -> list[RawScore]:
    rows: list[RawScore] = [{"parts": {}} for _ in answers.count]
    for name, part in _PARTS.items():
        shares, numbers = object_shares(answers, part).topk(_KEPT)
        shown = shown_probability(answers, part)
        for row, *figures in zip(rows, shown.tolist(), numbers.tolist(), shares.tolist(), strict=True):
            row["parts"][name] = _part_row(*figures)
    places = object_centres(answers)
    heads = {"styles": answers.style, "backgrounds": answers.background, "counts": answers.count}
    for i, row in enumerate(rows):
        own = places[i, [number for number, _ in row["parts"]["object"]["shares"]]]
        row["x"], row["y"] = _rounded(own[:, 0]), _rounded(own[:, 1])
        row |= {head: _rounded(figures[i].log_softmax(0)) for head, figures in heads.items()}
    return rows


def _part_row(shown: float, numbers: Sequence[int], shares: Sequence[float]) -> RawScore:
    kept = [[number, round(share, 3)] for number, share in zip(numbers, shares, strict=True)]
    return {"shown": round(shown, 3), "shares": kept}


def _rounded(figures: Tensor) -> list[float]:
    return [round(value, 3) for value in figures.tolist()]
