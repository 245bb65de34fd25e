"""moji-judge: classifies object and style of a `moji` image. It was trained on artwork, not on generated images.

Scores are raw log-probabilities; a named policy decides later what an image shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..metrics.score_policies import argmax
from ..models.vision.judge_net import image_embeddings, load_net
from ..prompts.checks import Check
from ..worlds.registry import JUDGE_WEIGHTS
from .registry import NOTHING_LABEL, AnswerReader, RawScore, scorer

_IMAGE_PARTS = ("whole", "left", "right")


@dataclass(frozen=True)
class JudgeVerdict:
    """The judge's decision on one image under the policy `argmax`: the most probable label of each head."""

    object: str
    """A label of the table, or "nothing"."""
    style: str
    confidence: float
    """Probability of `object`."""


@dataclass(frozen=True)
class JudgeLogProbabilities:
    """Raw log-probabilities with images as rows: objects (b, n + 1), styles (b, 9)."""

    objects: Tensor
    styles: Tensor


class MojiJudge:
    """The packaged judge. Its labels have the table's order, then "nothing"."""

    name = "moji-judge"
    version = 1

    def __init__(self, path: Path | None = None) -> None:
        net, labels = load_net(path or JUDGE_WEIGHTS)
        self.net = net
        self.hash = hash_tensors(net.state_dict())
        self.objects: tuple[str, ...] = (*labels["objects"], NOTHING_LABEL)
        self.styles: tuple[str, ...] = (*labels["styles"], NOTHING_LABEL)

    def score(self, pictures: Tensor) -> JudgeLogProbabilities:
        """Score images (b, 3, 64, 64) in [0, 1]; differentiable in them."""
        parts = [self.net(part) for part in pictures.float().split(64)]
        objects, styles = (torch.cat(side).log_softmax(1) for side in zip(*parts, strict=True))
        return JudgeLogProbabilities(objects, styles)

    def decide(self, scores: JudgeLogProbabilities) -> list[JudgeVerdict]:
        """Decide by the policy `argmax`."""
        sure, guess = scores.objects.exp().max(1)
        style = scores.styles.argmax(1)
        rows = zip(guess.tolist(), style.tolist(), sure.tolist(), strict=True)
        return [JudgeVerdict(self.objects[o], self.styles[s], p) for o, s, p in rows]


def crop_half(pictures: Tensor, side: int) -> Tensor:
    """Crop the left (0) or right (1) object of two-object images, enlarged to the size of a single one."""
    size = pictures.shape[-1]
    top, left = size // 4, side * size // 2
    part = pictures[..., top : top + size // 2, left : left + size // 2]
    return F.interpolate(part, scale_factor=2, mode="bilinear")


def _image_part(check: Check) -> str:
    return check.by if check.by in ("left", "right") else "whole"


def _first_guess(opened: "JudgeScore", raw: RawScore, check: Check) -> str:
    head = "styles" if check.by == "style" else "objects"
    return argmax(raw[head], opened.labels[head])


_READER = AnswerReader(
    _first_guess,
    _image_part,
    answers="table",
    measures={"clip": "moji-clip", "embedding": "moji-judge-embedding", "pair": "moji-judge-features"},
)


@scorer("moji-judge", reads="picture", reader=_READER)
class JudgeScore:
    """Scores every label's log-probability for a `moji` image, or for one of its two objects.

    `asked` is "whole", "left" or "right". `labels` names the figures of each head, for the policies of
    `metrics/score_policies.py`, such as `argmax(row["objects"], labels["objects"])`.
    """

    name = MojiJudge.name
    version = MojiJudge.version

    def __init__(self, path: Path | None = None) -> None:
        self.judge = MojiJudge(path)
        self.hash = self.judge.hash
        self.labels = {"objects": self.judge.objects, "styles": self.judge.styles}

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return the log-probabilities of both heads, 4 decimals, in the order of `labels`."""
        unknown = sorted({*asked} - {*_IMAGE_PARTS})
        require(not unknown, f"moji-judge: unknown part {unknown[:1]} of an image: give {', '.join(_IMAGE_PARTS)}")
        require(len(asked) == len(pictures), f"{len(asked)} questions about {len(pictures)} images: give one for each")
        seen = pictures.float().clone()
        for side, part in enumerate(_IMAGE_PARTS[1:]):
            members = [i for i, text in enumerate(asked) if text == part]
            if members:
                seen[members] = crop_half(seen[members], side)
        scores = self.judge.score(seen)
        return [_row(*heads) for heads in zip(scores.objects.tolist(), scores.styles.tolist(), strict=True)]

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Return the judge's features before its heads, (b, 256) float32."""
        return image_embeddings(self.judge.net, pictures)


def _row(objects: Sequence[float], styles: Sequence[float]) -> RawScore:
    return {"objects": [round(value, 4) for value in objects], "styles": [round(value, 4) for value in styles]}
