"""Protocols and registry of scorers. A scorer turns images into raw figures, which are interpreted later.

Raw figures are stored, so another threshold or list of labels never needs new images. Heavy libraries are imported when
a scorer is built, so the registry does not need them. A scorer with an `AnswerReader`, which turns its figures into a
label, can be a judge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from ..core.docstrings import summary_of
from ..core.registry import Registry
from ..models.vision.judge_answers import NOTHING_LABEL as NOTHING_LABEL
from ..prompts.checks import Check, JudgedAspect

RawScore = dict[str, Any]  # one image's figures: JSON numbers, texts and lists
# An image; an image and its prompt; an image before and after; a set of images; an image to describe.
ScorerInput = Literal["picture", "text", "pair", "set", "caption"]


class Scorer(Protocol):
    """Protocol of a scorer of single images, some of them against a text."""

    name: str
    version: int
    hash: str
    """Hash of its weights."""

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return the raw figures of each image of (b, 3, h, w) in [0, 1]; `asked[i]` is the question about image i."""


class PairScorer(Protocol):
    """Protocol of a distance between two images."""

    name: str
    version: int
    hash: str

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the distances (b,) between images (b, 3, h, w) in [0, 1]; 0 for equal ones."""


class FeatureScorer(Protocol):
    """Protocol of a feature extractor for distances between sets of images (FID, KID, CMMD)."""

    name: str
    version: int
    hash: str

    def features(self, pictures: Tensor) -> Tensor:
        """Return features (b, d) float32 of images (b, 3, h, w) in [0, 1]."""


class PairedTowers(Protocol):
    """Protocol of two networks that embed images and texts in one space."""

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Return unit rows (b, d) of images (b, 3, h, w) in [0, 1]."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit rows (n, d) of texts."""


class AgreementScorer(Scorer, Protocol):
    """Protocol of a scorer of agreement between an image and a text, whose two towers may be asked alone."""

    clip: PairedTowers


class Captioner(Protocol):
    """Protocol of a scorer that describes images in words."""

    name: str
    version: int
    hash: str

    def captions(self, pictures: Tensor) -> list[str]:
        """Return a caption of each image of (b, 3, h, w) in [0, 1]; the same image has the same one every time."""


def concept_of(check: Check) -> str:
    """Return the question for most scorers: the concept that the image is about."""
    return check.concept


_OBJECTS_AND_STYLES: frozenset[JudgedAspect] = frozenset({"object", "style", "left", "right"})
# Labels of the table of concepts; texts of the user; the scorer's own labels.
AnswerSource = Literal["table", "texts", "scorer"]
MeasureRole = Literal["clip", "embedding", "pair", "captions"]
_ROLE_OF_INPUT: Mapping[ScorerInput, MeasureRole] = {
    "text": "clip",
    "set": "embedding",
    "pair": "pair",
    "caption": "captions",
}


@dataclass(frozen=True)
class AnswerReader:
    """Turns a scorer's raw figures into a label. A scorer that has one can be named by `--judge`."""

    read: Callable[..., str]
    """Maps the opened scorer, an image's raw figures and the check to a label, or `NOTHING_LABEL`."""
    question: Callable[[Check], str] = concept_of
    """Returns the question to the scorer about a check's image."""
    answers: AnswerSource = "scorer"
    """Source of its labels. A scorer that answers with texts is built with `labels`."""
    policy: str = "argmax"
    """The rule behind `read`, for reports."""
    wants_path: str | None = None
    """Describes the path that must follow NAME= after `--judge` and is passed as `path`; None: no path is needed."""
    measures: Mapping[MeasureRole, str] = field(default_factory=dict)
    """Scorers that measure how the judged images changed: agreement with a text, features of sets, distances, captions.
    """
    needs_model: bool = False
    """Whether it judges by the unedited model itself. The scorer is then built with `model`, `model_key`, `styles` and
    `targets`."""
    caveat: str = ""
    """What stands beside its name in every report; "" for an independent judge."""
    grades_white_box: bool = True
    """Whether it may grade attacks that see weights or gradients, which can climb a model's own judgement."""
    pictures_at_once: int = 256
    """Images in one task; small for a slow scorer, so that little is lost when a run is stopped."""
    aspects: frozenset[JudgedAspect] = _OBJECTS_AND_STYLES
    """What it can answer about an image; other checks are left out."""
    recognises_faces: bool = False
    """Whether its answers are names of persons by their faces, and "nothing" is an image without a face."""
    require_checks: Callable[[Any, Sequence[Check]], None] | None = None
    """Raises `SettingsError` if the opened scorer has no answer to a check, before anything is drawn; None: it has."""


_ScorerBuilder = TypeVar("_ScorerBuilder", bound=Callable[..., object])


@dataclass(frozen=True)
class ScorerInfo:
    """An entry of the registry of scorers."""

    name: str
    build: Callable[..., object]
    reads: ScorerInput
    extra: str | None
    """Extra of this package that must be installed, if any."""
    summary: str
    reader: AnswerReader | None = None
    """Its reader; None if it cannot be a judge."""
    text_encoder_of: str | None = None
    """Name of the embedded model whose unedited text encoder it gets as `embed`; None: it needs none."""

    @property
    def measures(self) -> Mapping[MeasureRole, str]:
        """What it can measure beside another judge, and the scorer that does; empty if it only judges."""
        if self.reader is not None:
            return self.reader.measures
        return {_ROLE_OF_INPUT[self.reads]: self.name} if self.reads in _ROLE_OF_INPUT else {}


scorers: Registry[ScorerInfo] = Registry("scorer", plugin_group="unconcept.scorers")


def scorer(
    name: str,
    reads: ScorerInput,
    extra: str | None = None,
    reader: AnswerReader | None = None,
    text_encoder_of: str | None = None,
) -> Callable[[_ScorerBuilder], _ScorerBuilder]:
    """Register a scorer's class or builder under its name for users."""

    def put(build: _ScorerBuilder) -> _ScorerBuilder:
        summary = summary_of(build)
        scorers.register(name)(ScorerInfo(name, build, reads, extra, summary, reader, text_encoder_of))
        return build

    return put
