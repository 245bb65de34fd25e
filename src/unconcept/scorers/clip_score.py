"""CLIP score and zero-shot labels with any CLIP on disk: raw cosines, which `metrics/score_policies.py` interprets."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..core.hashing import hash_json
from ..metrics.score_policies import argmax
from ..models.loading import find_device
from ..models.vision.clip import load_clip
from ..prompts.checks import Check
from .registry import AnswerReader, RawScore, scorer

_LABEL_TEMPLATE = "a photo of the {}"  # MACE's


def _nearest_label(opened: "ClipScore", raw: RawScore, check: Check) -> str:
    cosines = dict(zip(opened.labels, raw["labels"], strict=True))
    among = check.among or opened.labels
    return argmax([cosines[label] for label in among], among)


_ZERO_SHOT = AnswerReader(
    _nearest_label,
    answers="texts",
    wants_path="its folder, clip-score=FOLDER",
    measures={"clip": "clip-score", "embedding": "clip-embedding"},
)


@scorer("clip-score", reads="text", reader=_ZERO_SHOT)
class ClipScore:
    """Scores how well an image agrees with a text and with each of a list of labels, with a CLIP from a folder.

    `path` is the CLIP's folder. `asked` is a prompt for alignment, or a concept's name for efficacy. Labels are put
    into the template. Policies: `clip_score(row["asked"])`; `argmax(row["labels"], labels)`;
    `probability(log_softmax(row["labels"]), labels, [name])`, whose mean over images is MACE's CLIP accuracy.
    """

    version = 1

    def __init__(
        self, path: Path, labels: Sequence[str] = (), template: str = _LABEL_TEMPLATE, device: str = "auto"
    ) -> None:
        self.clip = load_clip(path, find_device(device))
        self.labels = tuple(labels)
        self.name = f"clip:{self.clip.name}"
        # Stored rows are looked up by this hash, and rows with labels differ.
        self.hash = hash_json([self.clip.hash, template, self.labels]) if self.labels else self.clip.hash
        self.said = self.clip.embed_texts([template.format(label) for label in self.labels]) if self.labels else None

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return cosines in [-1, 1], 6 decimals: "asked" for the image's text, "labels" for each label in order."""
        seen = self.clip.embed_images(pictures)
        texts = list(dict.fromkeys(asked))
        said = self.clip.embed_texts(texts)[[texts.index(text) for text in asked]]
        own = (seen * said).sum(1).tolist()
        labels = (seen @ self.said.T).tolist() if self.said is not None else [[]] * len(own)
        return [_row(*cosines) for cosines in zip(own, labels, strict=True)]


def _row(asked: float, labels: Sequence[float]) -> RawScore:
    return {"asked": round(asked, 6), "labels": [round(value, 6) for value in labels]}
