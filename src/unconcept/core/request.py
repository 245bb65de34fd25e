"""Erasure requests: the targets, the anchor of each, and the texts that must not change."""

from collections.abc import Sequence
from dataclasses import dataclass

from .concept import CONCEPT_KINDS, NULL_ANCHORS, Concept, ConceptKind
from .errors import RequestError, require
from .escapes import require_unicode


@dataclass(frozen=True)
class RequestSpec:
    """A request as a user or a recipe states it. None means "choose the default", an empty tuple means "none"."""

    targets: tuple[str, ...] = ()
    """Concepts to erase; for moji the table adds their synonyms."""
    anchors: tuple[str, ...] | None = None
    """The anchor that replaces each target; by default from moji's table, or the null anchor of the kind."""
    retain: tuple[str, ...] | None = None
    """Texts that must not change; by default from moji's table, and none for other models."""
    kind: ConceptKind | None = None
    """The kind of the targets; by default from moji's table, and object for other models."""


@dataclass(frozen=True)
class Request:
    """Targets to erase, with their anchors and the texts to retain. Strings are used as given.

    The edited model reads target i as anchor i, and retained texts must not change. An anchor or a retained text may
    be the empty text. Aliases and contexts are targets of their own. A request without anchors leaves the targets
    what they are; only debiasing methods accept it. `withheld` texts are the ones that an evaluation of these targets
    measures; default retain sets leave them out.
    """

    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...] = ()
    kind: str = "object"
    withheld: tuple[str, ...] | None = None
    """None if the user typed the retained texts."""

    def __post_init__(self) -> None:
        for name in ("targets", "anchors", "retain"):
            texts = getattr(self, name)
            is_several = not isinstance(texts, str)
            require(is_several, f"{name} = {texts!r} is one text: write ({texts!r},)", RequestError)
            require(isinstance(texts, Sequence), f"{name} = {texts!r}: give a tuple of texts", RequestError)
            for text in texts:
                require(isinstance(text, str), f"{name}: {text!r} is no text: give names", RequestError)
                require_unicode(text, name, RequestError)
        require(bool(self.targets), "no target: name at least one concept to erase", RequestError)
        n, k = len(self.targets), len(self.anchors)
        require(k in (0, n), f"{n} targets but {k} anchors: give one anchor, or one for each target", RequestError)
        retained = {normalised_text(text) for text in self.retain}
        for target, anchor in zip(self.targets, self.anchors or (None,) * n, strict=True):
            require(bool(target.strip()), f"target {target!r} is empty: give at least one word", RequestError)
            require(
                target != anchor,
                f"target {target!r} equals its anchor: nothing would change; choose another anchor",
                RequestError,
            )
            require(
                normalised_text(target) not in retained,
                f"target {target!r} is also retained: remove it from the targets or from the retain set",
                RequestError,
            )
        require(
            len(set(self.targets)) == n,
            f"targets {list(self.targets)} name one target twice: name it once",
            RequestError,
        )

    @classmethod
    def of(
        cls,
        concepts: Sequence[Concept],
        anchors: Sequence[str] = (),
        retain: Sequence[str] = (),
        withheld: Sequence[str] | None = None,
    ) -> "Request":
        """Make a request for concepts and their aliases.

        Without anchors each concept gets the null anchor of its kind; a single anchor serves all concepts.
        """
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
                f"target {text!r} differs from its anchor {anchor!r} only in capitals and spaces: nothing would change;"
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
    """The text in lower case with single spaces, so that texts that mean the same compare equal."""
    return " ".join(text.casefold().split())


def merge_requests(requests: Sequence[Request]) -> Request:
    """Merge requests into one. The result is sorted and does not depend on their order.

    A target that several requests name counts once; if its anchors differ, the one that sorts first wins. A target of
    any request is not retained. A text that one request withholds is dropped from the default retain sets of the
    others, but kept where a user typed it.
    """
    require(bool(requests), "no request to merge: give at least one", RequestError)
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
