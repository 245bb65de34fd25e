"""Pictures and found inputs of explicit concepts: only their scores stay, unless the user asks for more."""

from collections.abc import Iterable

from ..core.concept import ConceptKind


def may_keep_pictures(kinds: Iterable[str], store_pictures: bool) -> bool:
    """Whether pictures of concepts of these kinds may stay after a run."""
    explicit: ConceptKind = "explicit"
    return store_pictures or explicit not in kinds


def why_no_pictures(keeps: bool) -> dict[str, str]:
    """The reason, for the report, if pictures do not stay."""
    return {} if keeps else {"pictures": "pictures of an explicit concept are not kept: --store-pictures keeps them"}
