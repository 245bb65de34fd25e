"""Which concepts a table is measured on, and which may choose a setting. No one picks them.

Settings are chosen on `tune` concepts. Headline rows are of `report` concepts drawn by the hash of their name and of
the table, so that the draw follows from the data. `seen` concepts, on which faults were looked for, stand apart.
"""

import hashlib
from collections.abc import Sequence

from unconcept.core.errors import RequestError
from unconcept.worlds.table import ConceptEntry, concept_table

DRAWN = {"object": 4, "style": 2, "harmful": 2}  # of each kind, for headline rows


def report_concepts() -> tuple[str, ...]:
    """The concepts of headline rows: of each kind, the report concepts whose hashes sort first."""
    return tuple(name for kind, count in DRAWN.items() for name in _by_hash(kind)[:count])


def seen_concepts() -> tuple[str, ...]:
    """Report concepts that were looked at: an object, a style and a harmful object."""
    return tuple(entry.name for entry in _erasable("seen"))


def require_tune(names: Sequence[str]) -> None:
    """Raise `RequestError` unless all are tune concepts, as every benchmark that chooses settings must ask."""
    known = concept_table()
    others = [name for name in names if known[name].split != "tune"]
    if others:
        usual = ", ".join(entry.name for entry in _erasable("tune")[:3])
        raise RequestError(
            f"{others[0]!r} is a {known[others[0]].split} concept: settings are chosen on tune concepts alone, such as"
            f" {usual}"
        )


def _by_hash(kind: str) -> list[str]:
    known = concept_table()
    names = [entry.name for entry in _erasable("report") if entry.kind == kind]
    return sorted(names, key=lambda name: hashlib.sha256(f"{known.hash}\0{name}".encode()).hexdigest())


def _erasable(split: str) -> list[ConceptEntry]:
    return [entry for entry in concept_table().entries if entry.erasable and entry.split == split]
