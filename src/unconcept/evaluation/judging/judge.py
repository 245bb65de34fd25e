"""Whose word counts: a scorer, with what it may answer, as plain data.

Any scorer that is registered with an `AnswerReader` is a judge; the reader makes words of its raw scores.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...core.errors import SettingsError, require
from ...core.registry import suggest
from ...prompts.checks import Check
from ...scorers import AnswerReader, FeatureScorer, PairScorer, RawScore, Scorer, scorers
from ..tasks.edited_model import EditedModel


@dataclass(frozen=True)
class Judge:
    """A scorer whose word counts."""

    scorer: str
    """Its name in the table of scorers."""
    path: str | None = None
    """Folder or file of weights that are not shipped."""
    labels: tuple[str, ...] = ()
    """What a judge that answers with texts may answer."""

    @classmethod
    def parse(cls, text: str) -> "Judge":
        """`NAME` or `NAME=PATH` from a flag."""
        name, _, path = text.partition("=")
        judge = cls(name, path or None)
        wanted = judge.reader.wants_path
        require(wanted is None or bool(path), f"judge {name}: give {wanted}", SettingsError)
        return judge

    def with_labels(self, labels: Iterable[str]) -> "Judge":
        """The same judge with these texts to answer with; judges with labels of their own stay as they are."""
        if self.reader.answers != "texts":
            return self
        return replace(self, labels=tuple(dict.fromkeys(text for text in labels if text.strip())))

    @property
    def reader(self) -> AnswerReader:
        """How raw scores become words; `UnknownName` where the scorer is no judge."""
        return suggest(self.scorer, answer_readers(), "judge")

    @property
    def policy(self) -> str:
        return self.reader.policy

    @property
    def knows_table(self) -> bool:
        """Whether its labels are those of the table of concepts."""
        return self.reader.answers == "table"

    def open(self) -> Any:
        """The scorer, opened once a process."""
        return open_scorer(self.scorer, self.path, self.labels)

    @property
    def key(self) -> str:
        """Scores are of a scorer's name, version and weights."""
        return scorer_key(self.open())

    def question(self, check: Check) -> str:
        """What the scorer is asked about the check's picture."""
        return self.reader.question(check)

    def label_of(self, raw: RawScore, check: Check) -> str:
        """What the picture shows: a label, or "nothing"."""
        return self.reader.read(self.open(), raw, check)


def answer_readers() -> dict[str, AnswerReader]:
    """Of every scorer that can be a judge, by its name."""
    found = {}
    for name in scorers:
        reader = scorers[name].reader
        if reader is not None:
            found[name] = reader
    return found


@lru_cache(maxsize=8)
def open_scorer(name: str, path: str | None = None, labels: tuple[str, ...] = ()) -> Any:
    """A scorer by name, once a process, built with what it takes: `path`, `labels`, a text encoder as `embed`."""
    info, given = scorers[name], dict[str, object]()
    if path:
        given["path"] = Path(path)
    if labels:
        given["labels"] = labels
    if info.text_encoder_of is not None:
        given["embed"] = partial(EditedModel(info.text_encoder_of).base().embed, at="first_eot")
    return info.build(**given)


@dataclass(frozen=True)
class ImageMeasures:
    """What a judge's pictures are measured with, besides its word; None where nothing of its kind is at hand."""

    clip: Scorer | None = None
    """Scores agreement with a text."""
    embedding: FeatureScorer | None = None
    """Features for distances between sets."""
    pair: PairScorer | None = None
    """Distances between pictures."""

    def used(self, figures: Iterable[str]) -> list[dict[str, object]]:
        """Name, version and hash of the weights of each that a figure of these names was taken with, as `FORM@NAME,
        ...`.
        """
        extractors = {name.partition("@")[2].partition(",")[0] for name in figures}
        opened = {
            scorer_key(one): one
            for one in (self.clip, self.embedding, self.pair)
            if one is not None and one.name in extractors
        }
        return [{"name": one.name, "version": one.version, "hash": one.hash} for one in opened.values()]


def image_measures(judge: Judge) -> ImageMeasures:
    """The scorers that the judge's reader names, opened; over the same weights where the judge has a path."""
    opened = {}
    for role, name in judge.reader.measures.items():
        opened[role] = judge.open() if name == judge.scorer else open_scorer(name, judge.path)
    return ImageMeasures(**opened)


def scorer_key(opened: Scorer | FeatureScorer | PairScorer) -> str:
    """Name, version and weights of a scorer: what its stored scores are filed under."""
    return f"{opened.name}@{opened.version}:{opened.hash[:16]}"
