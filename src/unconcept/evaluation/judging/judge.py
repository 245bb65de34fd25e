"""Judges: scorers that answer what a picture shows, as plain data.

Any scorer that is registered with an `AnswerReader` can be a judge; the reader turns its raw scores into words.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from inspect import Parameter, signature
from typing import Any

from ...core.errors import SettingsError, require
from ...core.registry import suggest
from ...models.loading import find_network, require_network
from ...prompts.checks import Check
from ...scorers import (
    AgreementScorer,
    AnswerReader,
    Captioner,
    FeatureScorer,
    PairScorer,
    RawScore,
    Scorer,
    scorers,
)
from ..tasks.edited_model import EditedModel


@dataclass(frozen=True)
class Judge:
    """A scorer that answers what a picture shows."""

    scorer: str
    """Name of the scorer in the registry."""
    path: str | None = None
    """Folder or file of its weights, if they are not shipped with the package."""
    labels: tuple[str, ...] = ()
    """Possible answers of a judge that answers with texts."""
    styles: tuple[str, ...] = ()
    """Possible answers to questions about a style; () if the labels are."""
    targets: tuple[str, ...] = ()
    """Answers that must be possible for every picture: the erased concepts."""
    model: EditedModel | None = None
    """The unedited model, for a judge that judges by it."""
    measures: tuple[str, ...] = ()
    """Scorers that measure beside it, in place of those of its reader: NAME or NAME=PATH."""

    @classmethod
    def parse(cls, text: str) -> "Judge":
        """Parse `NAME` or `NAME=PATH` from a flag."""
        name, _, path = text.partition("=")
        judge = cls(name, path or None)
        wanted = judge.reader.wants_path
        require(wanted is None or bool(path), f"judge {name}: give {wanted}", SettingsError)
        takes = "path" in signature(scorers[judge.scorer].build).parameters
        require(takes or not path, f"judge {name}={path}: it takes no path; give --judge {name}", SettingsError)
        return judge

    def with_labels(self, labels: Iterable[str], checks: Iterable[Check] = (), targets: Iterable[str] = ()) -> "Judge":
        """The same judge with these possible answers and those of the checks; a judge with its own labels stays as it
        is.
        """
        if self.reader.answers != "texts":
            return self
        styles: list[str] = []
        objects = list(labels)
        for check in self.answerable(checks):
            mine = styles if check.by == "style" and self.reader.needs_model else objects
            mine += [*check.labels, *check.among]
        always = _distinct(targets) if self.reader.needs_model else ()
        return replace(self, labels=_distinct(objects), styles=_distinct(styles), targets=always)

    def with_measures(self, named: Iterable[str]) -> "Judge":
        """The same judge with these scorers beside it; `SettingsError` for one that measures nothing."""
        require_measuring(named)
        return replace(self, measures=tuple(named))

    def for_model(self, unedited: EditedModel) -> "Judge":
        """The same judge, which judges by this model if it needs one."""
        return replace(self, model=unedited) if self.reader.needs_model else self

    @property
    def reader(self) -> AnswerReader:
        """The reader that turns raw scores into words; `UnknownName` if the scorer cannot be a judge."""
        return suggest(self.scorer, answer_readers(), "judge")

    @property
    def policy(self) -> str:
        return self.reader.policy

    @property
    def knows_table(self) -> bool:
        """Whether its labels are those of the table of concepts."""
        return self.reader.answers == "table"

    def open(self) -> Any:
        """The scorer, opened once per process."""
        return open_scorer(self.scorer, self.path, self.labels, self.styles, self.targets, self.model)

    @property
    def key(self) -> str:
        """Key of stored scores: the scorer's name, version and weights."""
        return scorer_key(self.open())

    def answerable(self, checks: Iterable[Check]) -> list[Check]:
        """The checks about aspects that it can tell."""
        return [check for check in checks if check.by in self.reader.aspects]

    def require_checks(self, checks: Iterable[Check]) -> None:
        """Raise `SettingsError` if it has no answer to a check, such as a name that a classifier never learned."""
        if self.reader.require_checks is not None:
            self.reader.require_checks(self.open(), self.answerable(checks))

    def question(self, check: Check) -> str:
        """The question to the scorer about the check's picture."""
        return self.reader.question(check)

    def label_of(self, raw: RawScore, check: Check) -> str:
        """What the picture shows: a label, or "nothing"."""
        return self.reader.read(self.open(), raw, check)


def require_path_as_taken(named: str, flag: str, wanted: str = "FOLDER") -> None:
    """Raise `SettingsError` if a NAME=PATH of this flag lacks a path that its scorer needs, or has one in vain."""
    name, _, path = named.partition("=")
    parameter = signature(scorers[name].build).parameters.get("path")
    wants = parameter is not None and parameter.default is Parameter.empty
    require(bool(path) or not wants, f"{flag} {name}: give {name}={wanted}", SettingsError)
    require(parameter is not None or not path, f"{flag} {named}: it takes no path", SettingsError)


def require_measuring(named: Iterable[str]) -> None:
    """Raise `SettingsError` for a scorer of `--measure` that measures nothing beside a judge."""
    for text in named:
        name = text.partition("=")[0]
        message = f"--measure {name}: it measures nothing beside a judge; known are {', '.join(_measuring())}"
        require(bool(scorers[name].measures), message, SettingsError)
        require_path_as_taken(text, "--measure")


def require_scorer_files(named: str | None, flag: str) -> None:
    """Raise `ModelError` if a NAME=PATH of this flag names files that are not there, before a network is opened."""
    path = (named or "").partition("=")[2]
    if path:
        require_network(path, f"{flag} {named}")


def judge_for_methods(named: Judge | None, grading: Judge | None) -> Judge | None:
    """The judge that a method may ask while it works: the named one. `SettingsError` if it is the one that grades."""
    if named is not None and named.reader.needs_model:
        raise SettingsError(f"method judge {named.scorer!r}: it judges by the unedited model alone; name another judge")
    if named is not None and grading is not None and not grading.reader.needs_model:
        message = (
            f"method judge {named.scorer!r}: it grades the result, and a method that asks it is graded by its own"
            " adviser; name another judge"
        )
        require(judge_weights(named) != judge_weights(grading), message, SettingsError)
    return named


def judge_weights(judge: Judge) -> str:
    """The hash of a judge's weights, whatever its name and labels."""
    found: str = open_scorer(judge.scorer, judge.path).hash
    return found


def answer_readers() -> dict[str, AnswerReader]:
    """The answer readers of all scorers that can be a judge, by name."""
    found = {}
    for name in scorers:
        reader = scorers[name].reader
        if reader is not None:
            found[name] = reader
    return found


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts without repetitions and blank ones."""
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


@lru_cache(maxsize=8)
def open_scorer(
    name: str,
    path: str | None = None,
    labels: tuple[str, ...] = (),
    styles: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    model: EditedModel | None = None,
) -> Any:
    """Open a scorer by name, once per process, with the arguments it takes: `path`, `labels`, a text encoder as
    `embed`, the unedited model with the answers about styles and the erased concepts.
    """
    info, given = scorers[name], dict[str, object]()
    if info.reader is not None and info.reader.needs_model:
        require(model is not None, f"judge {name} judges by a model: give the model, `Judge.for_model`", SettingsError)
        assert model is not None
        given |= {"model": model.base(), "model_key": model.unedited.key, "styles": styles, "targets": targets}
    if path:
        given["path"] = find_network(path)
    if labels:
        given["labels"] = labels
    if info.text_encoder_of is not None:
        given["embed"] = partial(EditedModel(info.text_encoder_of).base().embed, at="first_eot")
    return info.build(**given)


@dataclass(frozen=True)
class ImageMeasures:
    """Scorers for figures beyond the judge's answers; None where the judge names no scorer of that kind."""

    clip: AgreementScorer | None = None
    """Scores agreement of a picture with a text."""
    embedding: FeatureScorer | None = None
    """Computes features for distances between sets."""
    pair: PairScorer | None = None
    """Measures distances between two pictures."""
    captions: Captioner | None = None
    """Describes pictures."""

    def used(self, figures: Iterable[str]) -> list[dict[str, object]]:
        """Name, version and weights hash of each scorer that these figures used; figures are named `FORM@NAME, ...`."""
        extractors = {name.partition("@")[2].partition(",")[0] for name in figures}
        opened = {
            scorer_key(one): one
            for one in (self.clip, self.embedding, self.pair, self.captions)
            if one is not None and one.name in extractors
        }
        return [{"name": one.name, "version": one.version, "hash": one.hash} for one in opened.values()]


def image_measures(judge: Judge) -> ImageMeasures:
    """Open the scorers that the judge's reader names, from the judge's path if it has one, and those beside it."""
    opened = {}
    for role, name in judge.reader.measures.items():
        opened[role] = judge.open() if name == judge.scorer else open_scorer(name, judge.path)
    for text in judge.measures:
        named, _, path = text.partition("=")
        opened |= {role: open_scorer(name, path or None) for role, name in scorers[named].measures.items()}
    return ImageMeasures(**opened)


def _measuring() -> list[str]:
    return [name for name in scorers if scorers[name].measures]


def scorer_key(opened: Scorer | FeatureScorer | PairScorer | Captioner) -> str:
    """Name, version and weights of a scorer: the key of its stored scores."""
    return f"{opened.name}@{opened.version}:{opened.hash[:16]}"
