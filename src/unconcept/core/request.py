"""Erasure requests: the targets, the anchor of each, and the texts that must not change."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from math import isfinite

from .concept import NULL_ANCHORS, Concept, ConceptKind, shared_kind
from .errors import RequestError, require
from .escapes import require_unicode
from .text_identity import TextKey, distinct_texts, folded_text, normalised_text


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

    Texts that differ only in Unicode form, white space or, with `folds_case`, capitals are one text: no target may be
    named twice or also retained.
    """

    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...] = ()
    kind: str = "object"
    withheld: tuple[str, ...] | None = None
    """None if the user typed the retained texts."""
    folds_case: InitVar[bool] = True
    """Whether capitals alone make no other text, as for CLIP; T5 tells them apart. Checked once, not kept."""

    def __post_init__(self, folds_case: bool) -> None:
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
        for target, anchor in zip(self.targets, self.anchors or (None,) * n, strict=True):
            require(bool(target.strip()), f"target {target!r} is empty: give at least one word", RequestError)
            require(
                target != anchor,
                f"target {target!r} equals its anchor: nothing would change; choose another anchor",
                RequestError,
            )
        require_distinct_texts(self.targets, self.retain, folded_text if folds_case else normalised_text)

    @classmethod
    def of(
        cls,
        concepts: Sequence[Concept],
        anchors: Sequence[str] = (),
        retain: Sequence[str] = (),
        withheld: Sequence[str] | None = None,
        folds_case: bool = True,
    ) -> "Request":
        """Make a request for concepts and their aliases.

        Without anchors each concept gets the null anchor of its kind; a single anchor serves all concepts.
        """
        require(bool(concepts), "no concept: name at least one to erase", RequestError)
        kind = shared_kind(concept.kind for concept in concepts)
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
        made = cls(
            tuple(w for w, _ in pairs),
            tuple(a for _, a in pairs),
            tuple(dict.fromkeys(retain)),
            kind,
            None if withheld is None else tuple(withheld),
            folds_case,
        )
        require_distinct_anchors(made, folded_text if folds_case else normalised_text)
        return made

    @classmethod
    def recorded(
        cls,
        targets: Sequence[str],
        anchors: Sequence[str],
        retain: Sequence[str],
        kind: str,
        withheld: Sequence[str] | None,
    ) -> "Request":
        """Make a request from a record of an earlier version, which accepted two spellings of one text.

        The first spelling counts, and a text that is erased is not retained.
        """
        first: dict[Hashable, int] = {}
        for i, target in enumerate(targets):
            first.setdefault(normalised_text(target), i)
        return cls(
            tuple(targets[i] for i in first.values()),
            tuple(anchors[i] for i in first.values()) if anchors else (),
            tuple(text for text in retain if normalised_text(text) not in first),
            kind,
            None if withheld is None else tuple(withheld),
            folds_case=False,
        )


def require_distinct_texts(targets: Sequence[str], retain: Sequence[str], key: TextKey) -> None:
    """Raise `RequestError` if a target is named twice, or is also retained."""
    named: dict[Hashable, str] = {}
    for target in targets:
        other = named.get(key(target))
        if other is not None:
            spelled = "" if other == target else f", as {other!r} and {target!r} are one text to the model"
            raise RequestError(f"targets {list(targets)} name one target twice{spelled}: name it once")
        named[key(target)] = target
    for text in retain:
        target_of_key = named.get(key(text))
        if target_of_key is not None:
            spelled = "" if text == target_of_key else f", as {text!r}, which is one text to the model"
            raise RequestError(
                f"target {target_of_key!r} is also retained{spelled}: remove it from the targets or from the retain set"
            )


def require_distinct_anchors(request: Request, key: TextKey) -> None:
    """Raise `RequestError` if a target and its anchor are one text."""
    for target, anchor in zip(request.targets, request.anchors, strict=bool(request.anchors)):
        message = (
            f"target {target!r} differs from its anchor {anchor!r} only in how it is spelled, which the model does not"
            " read: nothing would change; choose another anchor"
        )
        require(key(target) != key(anchor), message, RequestError)


def merge_requests(requests: Sequence[Request], key: TextKey = folded_text) -> Request:
    """Merge requests into one. The result is sorted and does not depend on their order.

    `key` tells which texts are one text. A target that several requests name counts once, in the spelling and with the
    anchor that sort first.
    A target of any request is not retained. A text that one request withholds is dropped from the default retain sets
    of the others, but kept where a user typed it.
    """
    require(bool(requests), "no request to merge: give at least one", RequestError)
    anchors: dict[Hashable, str] = {}
    for request in requests:
        for target, anchor in zip(request.targets, request.anchors, strict=bool(request.anchors)):
            anchors[key(target)] = min(anchor, anchors.get(key(target), anchor))
    targets = _sorted_spellings((target for request in requests for target in request.targets), key)
    named = {key(target) for target in targets}
    withheld = {text for request in requests for text in request.withheld or ()}
    left_out = {key(text) for text in withheld}
    typed = {text for request in requests if request.withheld is None for text in request.retain}
    given = {text for request in requests if request.withheld is not None for text in request.retain}
    wanted = typed | {text for text in given if key(text) not in left_out}
    retain = _sorted_spellings((text for text in wanted if key(text) not in named), key)
    kind = shared_kind(request.kind for request in requests)
    is_typed = all(request.withheld is None for request in requests)
    left = None if is_typed else tuple(sorted(withheld.difference(retain)))
    own = tuple(anchors[key(target)] for target in targets) if anchors else ()
    return Request(targets, own, retain, kind, left, folds_case=False)


def _sorted_spellings(texts: Iterable[str], key: TextKey) -> tuple[str, ...]:
    """The texts sorted, each once, in the spelling that sorts first."""
    return distinct_texts(sorted(texts), key)


def relative_weights(names: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float] | None:
    """Return the weight of each name relative to their mean; None if all count the same, as without weights.

    A name that is not given has weight 1, and 0 leaves it as it is. Raises `RequestError` for a name that is not there,
    or weights that are negative, infinite or all 0.
    """
    if not given:
        return None
    for name, weight in given.items():
        require(name in names, f"weight of {name!r}: weigh what is erased: {', '.join(names[:8])}", RequestError)
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        require(
            is_number and isfinite(weight) and weight >= 0,
            f"weight of {name!r} is {weight!r}: give a number >= 0",
            RequestError,
        )
    found = {name: float(given.get(name, 1.0)) for name in names}
    mean = sum(found.values()) / len(found)
    require(mean > 0, "all weights are 0: give at least one target a weight > 0", RequestError)
    return None if len({*found.values()}) == 1 else {name: weight / mean for name, weight in found.items()}
