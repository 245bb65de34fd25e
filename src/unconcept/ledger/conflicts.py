"""Finds requests in force that contradict or repeat one another, and says how the ledger's rule resolves them.

The resolution does not depend on the order in which requests came.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.concept import CONCEPT_KINDS
from ..core.text_identity import normalised_text
from .entry import FoldRule, changes_no_weight
from .ledger import Ledger, method_mechanism
from .request_state import ID_DIGITS, RequestState

_FILLER_WORDS = re.compile(r"\b(a|an|the)\b|[^\w\s]", re.IGNORECASE)


@dataclass(frozen=True)
class _Grouping:
    """Says which requests are merged into one (`core.request.merge_requests`), and how the others combine."""

    rule: FoldRule
    merge: str  # how

    def of(self, one: RequestState) -> str:
        """Name of the unit that a request is solved in: its method or, if it is solved alone, method and id."""
        alone = self.rule == "sequential" or (
            self.rule == "merge" and method_mechanism(one.content.method) == "trained"
        )
        return f"{one.content.method} {one.id[:ID_DIGITS]}" if alone else one.content.method

    def how(self, units: Iterable[str]) -> str:
        if self.rule == "sequential":
            return "each is solved on the model that the one before left"
        made_by = {unit.partition(" ")[0] for unit in units}
        if self.rule == "merge" and len(made_by) == 1 and not changes_no_weight(*made_by):
            return f"each is solved alone on the base, then merged ({self.merge})"
        return "each is solved separately, and all are in force"


def find_conflicts(ledger: Ledger) -> list[dict[str, Any]]:
    """List conflicts by text: the requests that meet there and how the conflict is resolved.

    Requests that are solved as one follow their merged request; the others stay as they were added.
    """
    policy = ledger.policy
    apart = _Grouping(policy.rule, policy.merge.how)
    # By text, then by the unit that a request is solved in, then by id.
    erased: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))  # values: anchors
    retained: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    anchors: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    kinds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in ledger.request_states.active:
        unit = apart.of(one)
        kinds[unit][one.content.kind].add(one.id)
        anchored = zip(
            map(normalised_text, one.content.targets), map(normalised_text, one.content.anchors), strict=True
        )
        for target, anchor in anchored:
            erased[target][unit][one.id] = anchor
            anchors[anchor][unit].add(one.id)
        for text in map(normalised_text, one.content.retain):
            retained[text][unit].add(one.id)
    found = [_kept(text, erased[text], retained[text], apart) for text in sorted(erased.keys() & retained.keys())]
    for target in sorted(erased):
        found += _repeated(target, erased[target], apart)
    found += [_read(text, erased[text], anchors[text], ledger) for text in sorted(anchors.keys() & erased.keys())]
    alike: dict[str, set[str]] = defaultdict(set)
    for target in erased:
        alike[_core(target)].add(target)
    for texts in sorted(sorted(texts) for texts in alike.values() if len(texts) > 1):
        ids = {id_ for text in texts for unit in erased[text].values() for id_ in unit}
        found.append(_row("paraphrases", ", ".join(texts), ids, "each counts as a target of its own"))
    return found + _kinds(kinds)


def _kept(
    text: str, erasing: Mapping[str, Mapping[str, str]], holding: Mapping[str, set[str]], apart: _Grouping
) -> dict[str, Any]:
    ids = {id_ for units in (erasing, holding) for own in units.values() for id_ in own}
    others = sorted(holding.keys() - erasing.keys())
    if not others:
        return _row("erased and retained", text, ids, "it is erased, and left out of every retain set meanwhile")
    told = (
        f"{', '.join(sorted(erasing))} erases it and {', '.join(others)} retains it: {apart.how({*erasing, *others})}"
    )
    return _row("erased and retained", text, ids, told)


def _repeated(target: str, units: Mapping[str, Mapping[str, str]], apart: _Grouping) -> list[dict[str, Any]]:
    ids = {id_ for own in units.values() for id_ in own}
    ways = sorted({anchor for own in units.values() for anchor in own.values()})
    if len(ids) == 1:
        return []
    if len(units) == 1:
        if len(ways) == 1:
            return [_row("asked for twice", target, ids, "it counts once, until the last of them is revoked")]
        return [_row("several anchors", target, ids, f"{ways[0]!r} is used, which sorts first of {ways}")]
    if len(ways) == 1:
        return [
            _row(
                "asked for twice",
                target,
                ids,
                f"it is erased {len(units)} times, by {', '.join(sorted(units))}: {apart.how(units)}",
            )
        ]
    taken = ", ".join(f"{min(units[unit].values())!r} by {unit}" for unit in sorted(units))
    return [_row("several anchors", target, ids, f"{taken} is used: {apart.how(units)}")]


def _read(
    text: str, erasing: Mapping[str, Mapping[str, str]], reading: Mapping[str, set[str]], ledger: Ledger
) -> dict[str, Any]:
    """Describe an anchor that is itself a target."""
    ids = {id_ for units in (erasing, reading) for own in units.values() for id_ in own}
    closed = {method for unit in reading if method_mechanism(method := unit.partition(" ")[0]) == "closed-form"}
    told = "targets are mapped to the anchor as the unedited model encodes it"
    if ledger.policy.rule == "sequential" and (closed or ledger.policy.teacher == "previous"):
        told = "targets are mapped to the anchor as the model encodes it after the requests before them"
    elif below := sorted(
        {low for low in _in_weights(ledger) for method in closed if method_mechanism(low) == "trained" or low < method}
    ):
        told = (
            f"targets of {', '.join(sorted(closed))} are mapped to the anchor as the weights encode it after"
            f" {', '.join(below)}"
        )
    return _row("erased and an anchor", text, ids, told)


def _in_weights(ledger: Ledger) -> set[str]:
    """Methods in force that change weights."""
    return {one.content.method for one in ledger.request_states.active if not changes_no_weight(one.content.method)}


def _kinds(units: Mapping[str, Mapping[str, set[str]]]) -> list[dict[str, Any]]:
    """Describe requests of several kinds: folded as one kind, or each as its own."""
    every = sorted({kind for own in units.values() for kind in own})
    mixed = [unit for unit, own in units.items() if len(own) > 1]
    if len(every) < 2:
        return []
    ids = {id_ for own in units.values() for some in own.values() for id_ in some}
    first = f"folded as the kind that comes first in {', '.join(CONCEPT_KINDS)}"
    if not mixed:
        told = "each is solved as its own kind"
    else:
        told = first if len(units) == 1 else f"requests of one method are {first}; each method on its own"
    return [_row("several kinds", ", ".join(every), ids, told)]


def _row(kind: str, text: str, ids: Iterable[str], policy: str) -> dict[str, Any]:
    return {"conflict": kind, "text": text, "requests": sorted(ids), "policy": policy}


def _core(text: str) -> str:
    """A text without case, articles, punctuation and plural s."""
    return " ".join(word.removesuffix("s") for word in _FILLER_WORDS.sub(" ", text.casefold()).split())
