"""One order to erase: targets, what each shall be read as, what must stay."""

from collections.abc import Sequence
from dataclasses import dataclass

from .concept import CONCEPT_KINDS, NULL_ANCHORS, Concept, ConceptKind
from .errors import RequestError, require


@dataclass(frozen=True)
class RequestSpec:
    """A request as typed, or as a recipe gives it. None means "you choose", an empty tuple "none"."""

    targets: tuple[str, ...] = ()
    """What to erase; on moji the table adds their synonyms."""
    anchors: tuple[str, ...] | None = None
    """What each is to be read as; unless told, moji's table or the kind's null anchor says."""
    retain: tuple[str, ...] | None = None
    """Texts that must not change; unless told, moji's table says, elsewhere there are none."""
    kind: ConceptKind | None = None
    """Unless told, moji's table says, elsewhere it is object."""


@dataclass(frozen=True)
class Request:
    """Target i is read as anchor i; retained texts must not change. Strings are used as given.

    Anchors and retained texts may be empty: the empty text is a text. Aliases and contexts have become targets of their
    own. Without any anchor targets stay what they are: that is what methods that debias are asked, and no other.
    `withheld` are texts that an evaluation of these targets asks about: what is retained by default is never one of
    them.
    """

    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...] = ()
    kind: str = "object"
    withheld: tuple[str, ...] | None = None
    """None where the retained texts were typed."""

    def __post_init__(self) -> None:
        require(bool(self.targets), "no target: name at least one concept to erase", RequestError)
        n, k = len(self.targets), len(self.anchors)
        require(k in (0, n), f"{n} targets but {k} anchors: give one anchor, or one for each target", RequestError)
        retained = {normalised_text(text) for text in self.retain}
        for target, anchor in zip(self.targets, self.anchors or (None,) * n, strict=True):
            require(bool(target.strip()), f"empty target {target!r}: a target needs at least one word", RequestError)
            require(
                target != anchor,
                f"target {target!r} equals its anchor: nothing would change; choose another anchor",
                RequestError,
            )
            require(
                normalised_text(target) not in retained,
                f"target {target!r} is also retained: take it out of one of the two",
                RequestError,
            )
        require(
            len(set(self.targets)) == n, f"a target is named twice in {list(self.targets)}: name it once", RequestError
        )

    @classmethod
    def of(
        cls,
        concepts: Sequence[Concept],
        anchors: Sequence[str] = (),
        retain: Sequence[str] = (),
        withheld: Sequence[str] | None = None,
    ) -> "Request":
        """A request for concepts with their aliases: no anchor = the kind's null anchor; one anchor serves all."""
        require(bool(concepts), "no concept: name at least one to erase", RequestError)
        kind = concepts[0].kind
        if not anchors:
            anchors = [NULL_ANCHORS[concept.kind] for concept in concepts]
        elif len(anchors) == 1:
            anchors = [anchors[0]] * len(concepts)
        n, k = len(concepts), len(anchors)
        require(n == k, f"{n} concepts but {k} anchors: give one anchor, or one for each concept", RequestError)
        paired = list(zip(concepts, anchors, strict=True))
        pairs = [(word, anchor) for c, anchor in paired for word in c.all_names]
        pairs += [
            (form.replace("{}", word), form.replace("{}", anchor))
            for c, anchor in paired
            for word in c.all_names
            for form in c.contexts
        ]
        for text, anchor in pairs:
            message = (
                f"target {text!r} equals its anchor {anchor!r} but for capitals and spaces: nothing would change;"
                " choose another anchor"
            )
            require(text == anchor or normalised_text(text) != normalised_text(anchor), message, RequestError)
        return cls(
            tuple(w for w, _ in pairs),
            tuple(a for _, a in pairs),
            tuple(dict.fromkeys(retain)),
            kind,
            None if withheld is None else tuple(withheld),
        )


def normalised_text(text: str) -> str:
    """Without what no reader minds: capitals, and how many spaces stand where."""
    return " ".join(text.casefold().split())


def merge_requests(requests: Sequence[Request]) -> Request:
    """One request for all of them: a function of the set, whatever the order. Everything is sorted.

    A target with one anchor in two requests counts once; with several anchors, the one that sorts first is taken. What
    is a target of one is retained by none. What is withheld for one is not retained by default of another, only where
    it was typed.
    """
    require(bool(requests), "no request: nothing to unite", RequestError)
    anchors: dict[str, str] = {}
    for request in requests:
        for target, anchor in zip(request.targets, request.anchors, strict=bool(request.anchors)):
            anchors[target] = min(anchor, anchors.get(target, anchor))
    targets = tuple(sorted({target for request in requests for target in request.targets}))
    withheld = {text for request in requests for text in request.withheld or ()}
    typed = {text for request in requests if request.withheld is None for text in request.retain}
    given = {text for request in requests if request.withheld is not None for text in request.retain}
    named = {normalised_text(target) for target in targets}
    retain = {text for text in typed | (given - withheld) if normalised_text(text) not in named}
    kinds: list[str] = list(CONCEPT_KINDS)
    kind = min((request.kind for request in requests), key=kinds.index)
    left = None if all(request.withheld is None for request in requests) else tuple(sorted(withheld - retain))
    return Request(targets, tuple(anchors[t] for t in targets) if anchors else (), tuple(sorted(retain)), kind, left)
