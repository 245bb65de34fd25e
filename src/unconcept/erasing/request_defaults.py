"""Fills in a request that names only concepts: anchors, aliases and retain set, with the reason for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.concept import NULL_ANCHORS, Concept
from ..core.errors import RequestError, require
from ..core.request import Request, RequestSpec, relative_weights
from ..methods import MethodTask
from ..worlds.scenes import object_caption
from ..worlds.table import ConceptEntry, ConceptTable, table_of

STYLE_CARRIERS = 7  # number of retained objects in whose captions a style is erased too


@dataclass(frozen=True)
class ResolvedRequest:
    """A complete request, and the reason for each of its parts."""

    request: Request
    concepts: tuple[Concept, ...]
    reasons: dict[str, str]


def weights_of_targets(chosen: ResolvedRequest, by_concept: Mapping[str, float] | None) -> dict[str, float] | None:
    """Return the weight of each target: that of the concept that it is a name of, alone or in a context.

    None if all count the same. Raises `RequestError` for a weight of something else, or that is no number >= 0.
    """
    names = tuple(concept.name for concept in chosen.concepts)
    weights = relative_weights(names, by_concept)
    if weights is None:
        return None
    found = {text: weights[concept.name] for concept in chosen.concepts for text in concept.all_names}
    for concept in chosen.concepts:
        forms = [form.replace("{}", word) for word in concept.all_names for form in concept.contexts]
        found |= dict.fromkeys(forms, weights[concept.name])
    return found


def resolve_request(
    ask: RequestSpec, model: str, does: MethodTask = "erase", folds_case: bool = True
) -> ResolvedRequest:
    """Complete a request. For an embedded model its table supplies what the user leaves open; for any other model
    any words can be a concept. `folds_case` says whether its tokenizers fold capitals.
    """
    require(bool(ask.targets), f"no concept: name at least one to {does}", RequestError)
    known = table_of(model)
    if does == "debias":
        return debias_request(ask, known, folds_case)
    return request_from_words(ask, folds_case) if known is None else request_from_table(ask, known)


def request_from_table(ask: RequestSpec, known: ConceptTable) -> ResolvedRequest:
    """Complete a request from a table of concepts: aliases, anchor, retain set."""
    for name in ask.targets:
        require(bool(name.strip()), f"empty target {name!r}: a target needs at least one word", RequestError)
    entries = [known[name] for name in ask.targets]
    concepts = tuple(
        Concept(e.name, e.kind, (*e.synonyms.given, *e.indirect.given), _contexts(known, e)) for e in entries
    )
    reasons = {"targets": f"the name and its {sum(len(c.aliases) for c in concepts)} given synonyms from moji's table"}
    if any(c.contexts for c in concepts):
        reasons["targets"] += (
            ", alone and in captions of retained objects, because words after a style carry the style too"
        )
    anchors = ask.anchors
    if anchors is None:
        without = [e.name for e in entries if e.anchor is None]
        message = f"{without[0] if without else ''!r} has no anchor in moji's table: name one with --anchor"
        require(not without, message, RequestError)
        anchors = tuple(e.anchor for e in entries if e.anchor is not None)
        reasons["anchors"] = "the anchor in moji's table: something harmless of the same sort that moji draws well"
    retain, withheld = ask.retain, None
    if retain is None:
        retain = default_retain(known, [e.name for e in entries], anchors)
        withheld = sorted({near for e in entries for near in e.near.held_out})
        reasons["retain"] = "the given near neighbours and the far objects that moji's table reserves for requests"
    return ResolvedRequest(Request.of(concepts, anchors, retain, withheld), concepts, {**_typed(ask), **reasons})


def _contexts(known: ConceptTable, entry: ConceptEntry) -> tuple[str, ...]:
    """Captions with a gap for the name of a style.

    The encoder is causal: in "ink style wolf" the token of the object carries the style too.
    """
    if entry.kind != "style":
        return ()
    objects = known.far("given")
    return (
        "{} style",
        *(object_caption(other.name, "{}", 3) for other in objects[:: -(-len(objects) // STYLE_CARRIERS)]),
    )


def default_retain(known: ConceptTable, names: Sequence[str], anchors: Sequence[str]) -> tuple[str, ...]:
    """Choose what to retain: given near neighbours, the given far objects and, for styles, the other styles.

    Never a concept that is held out for evaluation or that is to be erased.
    """
    entries = [known[name] for name in names]
    held_out = {near for e in entries for near in e.near.held_out}
    near = [name for e in entries for name in e.near.given]
    styles = [e.name for e in known.styles] if any(e.kind == "style" for e in entries) else []
    far = [e.name for e in known.far("given")]
    wanted = [name for name in (*near, *far, *styles) if name not in held_out and name not in names]
    return tuple(dict.fromkeys(wanted))


def request_from_words(ask: RequestSpec, folds_case: bool = True) -> ResolvedRequest:
    """Make a request of the words as typed; by default the anchor is the kind's null anchor and nothing is retained."""
    kind = ask.kind or "object"
    concepts = tuple(Concept(name, kind) for name in ask.targets)
    reasons = _typed(ask)
    if ask.anchors is None:
        reasons["anchors"] = f"{NULL_ANCHORS[kind]!r}, the null anchor of kind {kind}"
    if ask.retain is None:
        reasons["retain"] = "empty: no concept was named to be retained"
    request = Request.of(concepts, ask.anchors or (), ask.retain or (), folds_case=folds_case)
    return ResolvedRequest(request, concepts, {"targets": "as typed", **reasons})


def debias_request(ask: RequestSpec, known: ConceptTable | None, folds_case: bool = True) -> ResolvedRequest:
    """Make a request to debias, which has no anchors.

    On `moji` targets are professions, and the other professions are retained.
    """
    require(
        not ask.anchors,
        f"anchor {(ask.anchors or ('',))[0]!r}: debiasing reads no target as another; leave anchors out",
        RequestError,
    )
    kind, reasons = ask.kind or "object", {"targets": "as typed", "anchors": "none: a debiased target stays what it is"}
    retain = ask.retain or ()
    if known is not None:
        entries = [known[name] for name in ask.targets]
        professions = [e.name for e in known.professions]
        for entry in entries:
            require(
                bool(entry.variants),
                f"{entry.name!r} has no variants in moji's table: name {', '.join(professions)}",
                RequestError,
            )
        kind = entries[0].kind
        if ask.retain is None:
            retain = tuple(name for name in professions if name not in ask.targets)
    reasons["retain"] = (
        "as typed"
        if ask.retain is not None
        else "the other professions of moji's table"
        if known
        else "empty: no concept was named to be retained"
    )
    concepts = tuple(Concept(name, kind) for name in ask.targets)
    request = Request(ask.targets, (), tuple(dict.fromkeys(retain)), kind, folds_case=folds_case)
    return ResolvedRequest(request, concepts, reasons)


def _typed(ask: RequestSpec) -> dict[str, str]:
    return {name: "as typed" for name, value in (("anchors", ask.anchors), ("retain", ask.retain)) if value is not None}
