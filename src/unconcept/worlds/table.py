"""The table of concepts that `moji` can draw, with their wordings, neighbours and use in tuning and reports.

Training, request defaults, evaluation, recipes and tests all read `concepts.toml` through this module, which needs no
torch. `tune` concepts serve to choose settings; all published figures are measured on `report` concepts. A report
concept on which faults were looked for is `seen` (world.toml): it serves for neither, and its figures stand apart.
Words and neighbours marked `given` may be part of a request; `held_out` ones are only measured.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from ..core.concept import ConceptKind
from ..core.errors import RequestError, require
from ..core.registry import suggest
from .registry import embedded_world, worlds

WordShare = Literal["given", "held_out"]
TableSplit = Literal["tune", "seen", "report"]


@dataclass(frozen=True)
class SplitWords:
    """Words that may be part of a request (`given`), and words that are only measured (`held_out`)."""

    given: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Both parts; the model is trained on all of them."""
        return self.given + self.held_out


@dataclass(frozen=True)
class ConceptEntry:
    """One concept of the table."""

    name: str
    kind: ConceptKind
    split: TableSplit
    family: str = ""
    """Group/subgroup of the Unicode emoji list."""
    icons: tuple[str, ...] = ()
    """Drawings in the artwork sets: a single one, or one for each variant."""
    variants: tuple[str, ...] = ()
    """The attribute in which the drawings differ: woman, man."""
    ratio: tuple[float, ...] = ()
    """Share of each variant among the training pictures of the neutral caption: the planted bias."""
    synonyms: SplitWords = SplitWords()
    indirect: SplitWords = SplitWords()
    """Wordings that do not name the concept."""
    near: SplitWords = SplitWords()
    """Names of near neighbours."""
    styles: tuple[str, ...] = ()
    """Styles in which it is drawn."""
    unseen: tuple[str, ...] = ()
    """Styles in which it was left out of the model's training, but not of the judge's."""
    erasable: bool = False
    """Whether it has near neighbours and an anchor, so that it can be erased and measured."""
    anchor: str | None = None
    """The concept that replaces it."""
    far: WordShare | None = None
    """Its far list, if any: `given` is the far retain list, `held_out` the list that is only measured."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """The name, every synonym and every indirect wording."""
        return (self.name, *self.synonyms.all, *self.indirect.all)

    @property
    def labels(self) -> tuple[str, ...]:
        """The judge's labels that count as this concept, one for each drawing."""
        if self.kind == "style":
            return (self.name,)
        return tuple(f"{variant} {self.name}" for variant in self.variants) or (self.name,)


@dataclass(frozen=True)
class ConceptTable:
    """All concepts, in the file's order. The judge's heads are in this order too."""

    entries: tuple[ConceptEntry, ...]
    hash: str

    def __getitem__(self, name: str) -> ConceptEntry:
        """The concept of this name; `UnknownName` suggests the nearest names."""
        wordings = {wording: entry.name for entry in self.entries for wording in entry.wordings}
        return suggest(name, {entry.name: entry for entry in self.entries}, "concept", wordings)

    @property
    def styles(self) -> tuple[ConceptEntry, ...]:
        return tuple(e for e in self.entries if e.kind == "style")

    @property
    def objects(self) -> tuple[ConceptEntry, ...]:
        """All concepts except styles: objects, harmful objects and professions."""
        return tuple(e for e in self.entries if e.kind != "style")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the judge's object head, except the last one, "nothing"."""
        return tuple(label for entry in self.objects for label in entry.labels)

    @property
    def professions(self) -> tuple[ConceptEntry, ...]:
        """Concepts with variants, whose shares in training are a planted bias."""
        return tuple(e for e in self.entries if e.variants)

    def profession(self, name: str) -> ConceptEntry:
        """The concept of this name; `RequestError` if it has no variants."""
        entry = self[name]
        message = (
            f"{name!r} has no variants in moji's table: name {', '.join(entry.name for entry in self.professions)}"
        )
        require(bool(entry.variants), message, RequestError)
        return entry

    def variants(self) -> dict[str, str]:
        """The variant that each label of a profession shows."""
        return {
            label: variant
            for entry in self.professions
            for label, variant in zip(entry.labels, entry.variants, strict=True)
        }

    def far(self, share: WordShare, split: TableSplit | None = None) -> tuple[ConceptEntry, ...]:
        """The far objects that requests retain (`given`) or that are only measured (`held_out`)."""
        return tuple(e for e in self.entries if e.far == share and split in (None, e.split))


def _entry(row: dict[str, Any]) -> ConceptEntry:
    words: dict[str, Any] = {}
    for key in ("synonyms", "indirect", "near"):
        words[key] = SplitWords(*(tuple(row.get(key, {}).get(share, ())) for share in ("given", "held_out")))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key not in words}
    return ConceptEntry(**{**plain, **words})


@cache
def concept_table() -> ConceptTable:
    """Read the packaged table, once for each process."""
    data = resources.files(__package__).joinpath("moji/concepts.toml").read_bytes()
    rows = tomllib.loads(data.decode("utf-8"))["concept"]
    seen = {name for world in worlds for name in worlds[world].seen}
    rows = [{**row, "split": "seen"} if row["name"] in seen else row for row in rows]
    return ConceptTable(tuple(_entry(row) for row in rows), hashlib.sha256(data).hexdigest())


def table_of(model: str) -> ConceptTable | None:
    """The concepts that an embedded model draws; None for a user's own model."""
    return None if embedded_world(model) is None else concept_table()
