"""Follows UCE's map through a sequence of request sets by rank-one updates, without solving each set again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..core.errors import LedgerError, require
from ..linalg.rank_one_updates import RankOneMap
from ..methods import methods
from ..methods.uce import UCE
from ..models.text.state_cache import TextStateCache
from .entry import method_from_settings
from .fold import merged_request
from .ledger import NEIGHBOUR_POSITION, Ledger
from .request_state import RequestState


@dataclass
class UCEUpdates:
    """UCE's map T for the current set of targets, anchors and retained texts."""

    method: UCE
    known: TextStateCache
    running: RankOneMap
    pairs: set[tuple[str, str]] = field(default_factory=set)
    retain: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, ledger: Ledger, known: TextStateCache) -> "UCEUpdates":
        """Start with no request; `LedgerError` unless the ledger has UCE with tokens = last under a rule that folds."""
        settings = ledger.request_states.settings.get("uce")
        method = method_from_settings(methods["uce"], settings) if settings else None
        fits = isinstance(method, UCE) and method.tokens == "last" and ledger.policy.rule != "sequential"
        require(
            fits,
            "rank-one updates work only for UCE with tokens = last, not under rule sequential: fold instead",
            LedgerError,
        )
        assert isinstance(method, UCE)
        width = next(iter(known.values())).shape[-1]
        return cls(method, known, RankOneMap.of(width, method.lamb))

    def update_to(self, requests: Sequence[RequestState]) -> Tensor:
        """T (d, d) in W' = W (I + T) with these requests in force."""
        asked = merged_request(requests) if requests else None
        return self.solve(
            set(zip(asked.targets, asked.anchors, strict=True)) if asked else set(),
            set(asked.retain) if asked else set(),
        )

    def solve(self, pairs: set[tuple[str, str]], retain: set[str]) -> Tensor:
        """T (d, d) for these (target, anchor) pairs and retained texts: adds new rows and removes old ones."""
        # New rows first: removing rows from a system of many rows loses less to rounding.
        for weight, texts in ((1, pairs - self.pairs), (-1, self.pairs - pairs)):
            for target, anchor in sorted(texts):
                self._add(target, anchor, weight * self.method.erase_scale)
        for weight, kept in ((1, retain - self.retain), (-1, self.retain - retain)):
            for text in sorted(kept):
                self._add(text, text, weight * self.method.preserve_scale)
        self.pairs, self.retain = pairs, retain
        return self.running.t

    def _add(self, text: str, wanted: str, weight: float) -> None:
        for c, a in zip(self.known[NEIGHBOUR_POSITION, text], self.known[NEIGHBOUR_POSITION, wanted], strict=True):
            self.running.add(c, a, weight)
