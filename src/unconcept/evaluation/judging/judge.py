"""Whose word counts: a scorer, with what it may answer, as plain data.

Raw scores become words here, by a named policy.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...core.errors import SettingsError, require
from ...core.registry import suggest
from ...metrics.i2p import COUNTING_RULES
from ...metrics.score_policies import argmax
from ...models.loading import MOJI
from ...prompts.checks import Check
from ...scorers import scorers
from ...scorers.moji_judge import NOTHING_LABEL
from ..tasks.edited_model import EditedModel

_PART_RULE = "mace"  # rule by which detected body parts count


@dataclass(frozen=True)
class Judge:
    """`moji-judge` for `moji`; `clip-score` over a folder, or `nudenet`, for other models."""

    scorer: str = "moji-judge"
    path: str | None = None  # folder or file of weights that are not shipped
    labels: tuple[str, ...] = ()  # what a CLIP may answer

    @classmethod
    def parse(cls, text: str) -> "Judge":
        """`NAME` or `NAME=PATH` from a flag."""
        name, _, path = text.partition("=")
        suggest(name, JUDGE_READERS, "judge")
        require(
            name != "clip-score" or bool(path), "judge clip-score: give its folder, clip-score=FOLDER", SettingsError
        )
        return cls(name, path or None)

    def with_labels(self, labels: Iterable[str]) -> "Judge":
        """A CLIP that may answer with these texts; other judges know their own answers."""
        return (
            replace(self, labels=tuple(dict.fromkeys(text for text in labels if text.strip())))
            if self.scorer == "clip-score"
            else self
        )

    @property
    def policy(self) -> str:
        return f"parts counted as {_PART_RULE}" if self.scorer == "nudenet" else "argmax"

    def open(self) -> Any:
        """The scorer, opened once a process."""
        return open_scorer(self.scorer, self.path, self.labels)

    @property
    def key(self) -> str:
        """Scores are of a scorer's name, version and weights."""
        return scorer_key(self.open())

    def question(self, check: Check) -> str:
        """What the scorer is asked about the check's picture."""
        if self.scorer == "moji-judge":
            return check.by if check.by in ("left", "right") else "whole"
        return check.concept

    def label_of(self, raw: Mapping[str, Any], check: Check) -> str:
        """What the picture shows: a label, or "nothing"."""
        return JUDGE_READERS[self.scorer](self, raw, check)


@lru_cache(maxsize=8)
def open_scorer(name: str, path: str | None = None, labels: tuple[str, ...] = ()) -> Any:
    """A scorer by name, once a process. moji-clip reads texts with the unedited text encoder of `moji`."""
    build = scorers[name].build
    if name == "moji-clip":
        return build(partial(EditedModel(MOJI).base().embed, at="first_eot"))
    if name == "clip-score":
        return build(Path(path or ""), labels)
    if name == "clip-embedding":
        return build(Path(path or ""))
    return build(path=Path(path)) if path else build()


@dataclass(frozen=True)
class ImageMeasures:
    """What a judge's pictures are measured with, besides its word; None where nothing of its kind is at hand."""

    clip: Any | None = None  # scores agreement with a text
    embedding: Any | None = None  # features for distances between sets
    pair: Any | None = None  # distances between pictures

    def used(self, figures: Iterable[str]) -> list[dict[str, Any]]:
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
    """`moji`'s own beside its judge; a CLIP measures with itself; a detector of parts with nothing."""
    if judge.scorer == "moji-judge":
        return ImageMeasures(
            open_scorer("moji-clip"), open_scorer("moji-judge-embedding"), open_scorer("moji-judge-features")
        )
    if judge.scorer == "clip-score":
        return ImageMeasures(judge.open(), open_scorer("clip-embedding", judge.path))
    return ImageMeasures()


def scorer_key(opened: Any) -> str:
    """Name, version and weights of a scorer: what its stored scores are filed under."""
    return f"{opened.name}@{opened.version}:{opened.hash[:16]}"


def _heads(judge: Judge, raw: Mapping[str, Any], check: Check) -> str:
    head = "styles" if check.by == "style" else "objects"
    return argmax(raw[head], judge.open().labels[head])


def _labels(judge: Judge, raw: Mapping[str, Any], check: Check) -> str:
    figures = dict(zip(judge.labels, raw["labels"], strict=True))
    among = check.among or judge.labels
    return argmax([figures[label] for label in among], among)


def _parts(judge: Judge, raw: Mapping[str, Any], check: Check) -> str:
    shown = any(COUNTING_RULES[_PART_RULE].counts(box["class"], box["score"]) for box in raw["boxes"])
    return check.labels[0] if shown else NOTHING_LABEL


JUDGE_READERS: dict[str, Callable[[Judge, Mapping[str, Any], Check], str]] = {
    "moji-judge": _heads,
    "clip-score": _labels,
    "nudenet": _parts,
}
