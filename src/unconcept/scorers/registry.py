"""What scorers give, and their table. A scorer turns pictures into raw figures; what they mean is decided later.

Raw figures are kept, so another threshold or label list never needs another drawing. Heavy libraries are imported
when a scorer is built, so the table can be read without them. A scorer that says how its figures become a word, by an
`AnswerReader`, can be a judge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from ..core.docstrings import summary_of
from ..core.registry import Registry
from ..prompts.checks import Check

NOTHING_LABEL = "nothing"
"""A judge's word for a picture that shows nothing it knows."""
RawScore = dict[str, Any]  # one picture's figures: JSON numbers, texts and lists
# a picture; a picture and its prompt; before and after; many pictures.
ScorerInput = Literal["picture", "text", "pair", "set"]


class Scorer(Protocol):
    """Scores single pictures, some of them against a text."""

    name: str
    version: int
    hash: str
    """Of its weights."""

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Raw figures of pictures (b, 3, h, w) in [0, 1], one for each; `asked[i]` says
        what is asked about picture i.
        """


class PairScorer(Protocol):
    """A distance between two pictures."""

    name: str
    version: int
    hash: str

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """(b,) distances between pictures (b, 3, h, w) in [0, 1]; 0 for equal ones."""


class FeatureScorer(Protocol):
    """What distances between sets of pictures (FID, KID, CMMD) are taken on."""

    name: str
    version: int
    hash: str

    def features(self, pictures: Tensor) -> Tensor:
        """(b, d) float32 of pictures (b, 3, h, w) in [0, 1]."""


def concept_of(check: Check) -> str:
    """What most scorers are asked: the concept that the picture is about."""
    return check.concept


# Labels of the table of concepts; texts that the user gives; whatever the scorer itself decides.
AnswerSource = Literal["table", "texts", "scorer"]
MeasureRole = Literal["clip", "embedding", "pair"]


@dataclass(frozen=True)
class AnswerReader:
    """How a scorer's raw figures become a word. With one a scorer can be named by `--judge`."""

    read: Callable[..., str]
    """Of the opened scorer, a picture's raw figures and the check: a label, or `NOTHING_LABEL`."""
    question: Callable[[Check], str] = concept_of
    """What the scorer is asked about a check's picture."""
    answers: AnswerSource = "scorer"
    """Where its labels come from. A scorer that answers with texts is built with `labels`."""
    policy: str = "argmax"
    """The rule behind `read`, for reports."""
    wants_path: str | None = None
    """What must follow NAME= after `--judge`; None: nothing must. A path is handed to the scorer as `path`."""
    measures: Mapping[MeasureRole, str] = field(default_factory=dict)
    """Scorers that measure how the judged pictures changed: agreement with a text, features of sets, distances."""


_ScorerBuilder = TypeVar("_ScorerBuilder", bound=Callable[..., object])


@dataclass(frozen=True)
class ScorerInfo:
    """A row of the scorers table."""

    name: str
    build: Callable[..., object]
    reads: ScorerInput
    extra: str | None
    """Of the package that must be installed, if any."""
    summary: str
    reader: AnswerReader | None = None
    """None: it is no judge."""
    text_encoder_of: str | None = None
    """The embedded model with whose unedited text encoder it is built, as `embed`; None: it needs none."""


scorers: Registry[ScorerInfo] = Registry("scorer", plugin_group="unconcept.scorers")


def scorer(
    name: str,
    reads: ScorerInput,
    extra: str | None = None,
    reader: AnswerReader | None = None,
    text_encoder_of: str | None = None,
) -> Callable[[_ScorerBuilder], _ScorerBuilder]:
    """Register a scorer's class or builder under the name users type."""

    def put(build: _ScorerBuilder) -> _ScorerBuilder:
        summary = summary_of(build)
        scorers.register(name)(ScorerInfo(name, build, reads, extra, summary, reader, text_encoder_of))
        return build

    return put
