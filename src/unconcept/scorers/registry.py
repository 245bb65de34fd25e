"""What scorers give, and their table. A scorer turns pictures into raw figures; what they mean is decided later.

Raw figures are kept, so another threshold or label list never needs another drawing. Heavy libraries are imported
when a scorer is built, so the table can be read without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from ..core.docstrings import summary_of
from ..core.registry import Registry

RawScore = dict[str, Any]  # one picture's figures: JSON numbers, texts and lists
# a picture; a picture and its prompt; before and after; many pictures.
ScorerInput = Literal["picture", "text", "pair", "set"]


class Scorer(Protocol):
    """Scores single pictures, some of them against a text."""

    name: str
    version: int
    hash: str  # of its weights

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


scorers: Registry[ScorerInfo] = Registry("scorer", plugin_group="unconcept.scorers")


def scorer(name: str, reads: ScorerInput, extra: str | None = None) -> Callable[[_ScorerBuilder], _ScorerBuilder]:
    """Register a scorer's class or builder under the name users type."""

    def put(build: _ScorerBuilder) -> _ScorerBuilder:
        summary = summary_of(build)
        scorers.register(name)(ScorerInfo(name, build, reads, extra, summary))
        return build

    return put
