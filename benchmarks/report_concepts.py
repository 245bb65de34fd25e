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


def drawn_of_kind(kind: str, count: int) -> tuple[str, ...]:
    """So many report concepts of a kind, those whose hashes sort first."""
    return tuple(_by_hash(kind)[:count])


def drawn_professions(count: int) -> tuple[str, ...]:
    """So many report professions, those whose hashes sort first; only a protocol of faces erases them."""
    return tuple(
        _sorted_by_hash([entry.name for entry in concept_table().professions if entry.split == "report"])[:count]
    )


def seed_concepts() -> tuple[str, ...]:
    """Of each kind the first drawn concept, for trainings that are repeated under several seeds."""
    return tuple(_by_hash(kind)[0] for kind in DRAWN)


def seen_concepts() -> tuple[str, ...]:
    """Report concepts that were looked at: an object, a style and a harmful object."""
    return tuple(entry.name for entry in _erasable("seen"))


def spread(split: str, count: int, limit: int | None = None) -> tuple[str, ...]:
    """`count` objects of a split spread over the table, and all styles and harmful objects of it; at most `limit` of
    them all.
    """
    part = _erasable(split)
    objects = [e for e in part if e.kind == "object"]
    count = min(len(objects), count)
    names = [objects[i * len(objects) // count].name for i in range(count)] + [
        e.name for e in part if e.kind != "object"
    ]
    return tuple(names[:: -(-len(names) // limit)] if limit else names)


def together() -> dict[str, tuple[str, ...]]:
    """What is erased by one edit, by the name of its section. The object and the style alone are the first drawn."""
    part = _erasable("report")
    every, styles, harmful = (names_of_kind(part, kind) for kind in ("object", "style", "harmful"))
    return {
        "1 object": report_concepts()[:1],
        "10 objects": objects(10),
        f"{len(every)} objects": tuple(every),
        "1 style": tuple(name for name in report_concepts() if name in styles)[:1],
        "4 styles": tuple(styles[:4]),
        "the harmful family": tuple(harmful),
    }


def objects(count: int) -> tuple[str, ...]:
    """So many report objects, spread evenly over the table."""
    names = names_of_kind(_erasable("report"), "object")
    return tuple(names[i * len(names) // count] for i in range(count))


def names_of_kind(entries: Sequence[ConceptEntry], kind: str) -> list[str]:
    return [entry.name for entry in entries if entry.kind == kind]


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
    return _sorted_by_hash([entry.name for entry in _erasable("report") if entry.kind == kind])


def _sorted_by_hash(names: Sequence[str]) -> list[str]:
    known = concept_table()
    return sorted(names, key=lambda name: hashlib.sha256(f"{known.hash}\0{name}".encode()).hexdigest())


def _erasable(split: str) -> list[ConceptEntry]:
    return [entry for entry in concept_table().entries if entry.erasable and entry.split == split]
