"""A local vision-language model as a judge that answers yes or no, and as a captioner."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..core.errors import require
from ..metrics.hub import parse_answer
from ..models.loading import find_device
from ..models.vision.language import VisionLanguageModel
from ..prompts.checks import Check
from .registry import NOTHING_LABEL, AnswerReader, RawScore, scorer

_CAPTION_REQUEST = "Describe the objects in this image, their style and their positions, in one sentence."
_LONGEST_ANSWER, _LONGEST_CAPTION = 64, 96  # tokens
_SIDES = {"left": "on the left side", "right": "on the right side", "above": "at the top", "below": "at the bottom"}


def ask_vlm(check: Check) -> str:
    """Return the question about a check's image, which is answered by yes or no."""
    name = check.concept
    if check.by == "style":
        asked = f"Is the style of this image {name}"
    elif check.by == "background":
        asked = f"Is the background of this image {check.labels[0]}"
    elif check.by == "count":
        asked = f"Are there exactly {check.labels[0]} {check.wording or name} in this image"
    elif check.by in ("left-right", "above-below"):
        asked = f"Is this true of this image: {check.labels[0]}"
    else:
        place = f" {_SIDES[check.by]}" if check.by in _SIDES else ""
        asked = f"Is {name} in this image{place}"
    return f"{asked}? Answer yes or no."


def _read_answer(opened: object, raw: RawScore, check: Check) -> str:
    return check.labels[0] if parse_answer(raw["answer"]) == "yes" else NOTHING_LABEL


_READER = AnswerReader(
    _read_answer,
    ask_vlm,
    policy="yes as the last line of a greedy answer",
    wants_path="its folder, vlm=FOLDER",
    measures={"captions": "vlm"},
    pictures_at_once=8,
    aspects=frozenset(
        {"object", "style", "left", "right", "above", "below", "background", "count", "left-right", "above-below"}
    ),
)


@scorer("vlm", reads="caption", reader=_READER)
class VlmScore:
    """Answers yes or no about an image, and captions it, with a vision-language model from a folder.

    `path` is a folder that transformers wrote. Answers are greedy, and stored as they are.
    """

    version = 1

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.model = VisionLanguageModel(path, find_device(device))
        self.name, self.hash = f"vlm:{self.model.name}", self.model.hash

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return `answer`, the words about each image of (b, 3, h, w) in [0, 1]; `asked[i]` is the question."""
        require(len(asked) == len(pictures), f"{len(asked)} questions about {len(pictures)} images: give one for each")
        return [{"answer": answer} for answer in self.model.answers(pictures, asked, _LONGEST_ANSWER)]

    def captions(self, pictures: Tensor) -> list[str]:
        """Return one sentence about each image of (b, 3, h, w) in [0, 1]."""
        return self.model.answers(pictures, [_CAPTION_REQUEST] * len(pictures), _LONGEST_CAPTION)
