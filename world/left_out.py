"""Concepts that a training must neither show nor name: their wordings as whole words, and what means them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from unconcept.worlds.scenes import SceneWords
from unconcept.worlds.table import ConceptTable

from .lessons import Lesson


@dataclass(frozen=True)
class LeftOut:
    """Names of the concepts, and every wording of them: synonyms, indirect ones and plurals."""

    names: frozenset[str]
    wordings: tuple[str, ...]

    @classmethod
    def of(cls, known: ConceptTable, words: SceneWords, names: Iterable[str]) -> "LeftOut":
        """Look the wordings up in the table."""
        entries = [known[name] for name in sorted(names)]
        found = [wording for entry in entries for wording in entry.wordings]
        counted = [entry.name for entry in entries if entry.kind != "style" and entry.name not in words.uncounted]
        return cls(frozenset(entry.name for entry in entries), (*found, *map(words.plural, counted)))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, self.wordings))})\b", re.IGNORECASE)

    def is_named(self, text: str) -> bool:
        """Whether a text holds one of the wordings."""
        return bool(self.wordings) and self._pattern.search(text) is not None

    def allowed(self, lesson: Lesson) -> Lesson | None:
        """The lesson without the meanings that are left out; None if it names one or nothing is left of its meaning."""
        if self.is_named(lesson.caption.text):
            return None
        meanings = [tuple(name for name in some if name not in self.names) for some in lesson.meanings]
        return replace(lesson, meanings=tuple(meanings)) if all(meanings) else None
