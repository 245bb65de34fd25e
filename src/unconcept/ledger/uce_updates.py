"""UCE's state along a sequence of sets by rank-one updates: what each request changed,
without solving anew for each.
"""

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
    """T of the requests last shown to it."""

    method: UCE
    known: TextStateCache
    running: RankOneMap
    pairs: set[tuple[str, str]] = field(default_factory=set)
    retain: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, ledger: Ledger, known: TextStateCache) -> "UCEUpdates":
        """`LedgerError` unless the ledger has UCE, reading last subject tokens, under a rule that folds."""
        settings = ledger.request_states.settings.get("uce")
        method = method_from_settings(methods["uce"], settings) if settings else None
        fits = isinstance(method, UCE) and method.tokens == "last" and ledger.policy.rule != "sequential"
        require(fits, "a preview by rank-one updates is of UCE with tokens = last: fold instead", LedgerError)
        assert isinstance(method, UCE)
        width = next(iter(known.values())).shape[-1]
        return cls(method, known, RankOneMap.of(width, method.lamb))

    def update_to(self, requests: Sequence[RequestState]) -> Tensor:
        """T (d, d) of W' = W (I + T) when these are in force."""
        asked = merged_request(requests) if requests else None
        return self.solve(
            set(zip(asked.targets, asked.anchors, strict=True)) if asked else set(),
            set(asked.retain) if asked else set(),
        )

    def solve(self, pairs: set[tuple[str, str]], retain: set[str]) -> Tensor:
        """T (d, d) of these targets with their anchors and these retained texts: rows that are new are added, rows that
        are gone taken back.
        """
        # What is new first: a system of many rows is taken back from with less rounding.
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
