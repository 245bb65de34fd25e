"""Edits that add what a gate lets through of a text to each map that reads it: CPE's residual attention gates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..core.request import Request
from ..models import ModelView
from ..models.hooks.forward import add_from_inputs
from ..models.hooks.modules import denoiser_modules
from ..models.text.state_rows import content_positions
from .common import ScaledEdit
from .edit_file import StoredEdit
from .registry import edit_kind
from .weight_edits import low_rank_pairs
from .weights import require_same_base

_GATE_PARTS = ("query", "key", "score")


@dataclass(frozen=True)
class ResidualGate:
    """A gate over the tokens of a text, and what each map adds for what it lets through.

    Of states x (b, l, d): e = softmax((x query) (x key)^T) x, and each token's gate is sigmoid(e score).
    """

    texts: tuple[str, ...]  # the concepts that it erases
    query: Tensor  # (d, k)
    key: Tensor  # (d, k)
    score: Tensor  # (d,)
    pairs: Mapping[str, tuple[Tensor, Tensor]]  # up (o, r), down (r, d) by the full name of the map's weight

    def __post_init__(self) -> None:
        d = len(self.score)
        is_gate = self.score.ndim == 1 and self.query.shape == self.key.shape == (d, self.query.shape[-1])
        require(
            is_gate and bool(self.texts) and bool(self.pairs),
            "a gate needs texts, maps, and a query (d, k), a key (d, k) and a score (d,) that fit together",
            EditError,
        )
        fits = all(down.shape[1:] == (d,) and up.shape[1:] == down.shape[:1] for up, down in self.pairs.values())
        require(fits, f"the pairs of a gate do not fit its width {d}: give up (o, r) and down (r, {d})", EditError)

    def open(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return e (b, l, d) and the gates (b, l) of states (b, l, d), in the wider of the two dtypes."""
        wide = torch.promote_types(x.dtype, self.query.dtype)
        x, query, key, score = (t.to(wide) for t in (x, self.query, self.key, self.score))
        e = torch.softmax((x @ query) @ (x @ key).transpose(1, 2), -1) @ x
        return e, torch.sigmoid(e @ score)

    def added(self, name: str, passed: Tensor) -> Tensor:
        """Return what a map adds (b, l, o) for what was let through (b, l, d)."""
        up, down = (t.to(passed) for t in self.pairs[name])
        return passed @ down.T @ up.T

    def to(self, device: torch.device) -> "ResidualGate":
        """Return the same gate on another device."""
        pairs = {name: (up.to(device), down.to(device)) for name, (up, down) in self.pairs.items()}
        query, key, score = (part.to(device) for part in (self.query, self.key, self.score))
        return ResidualGate(self.texts, query, key, score, pairs)


@edit_kind("residual-gate")
@dataclass(frozen=True)
class ResidualGateEdit(ScaledEdit):
    """Computes W x + strength up down (g e), with e and g of the gate that is widest open for a token.

    A map's input that is no text of the batch (b, l, d) is left alone.
    """

    gates: tuple[ResidualGate, ...]

    def __post_init__(self) -> None:
        require(bool(self.gates), "it has no gate: give at least one", EditError)
        same = all(gate.pairs.keys() == self.gates[0].pairs.keys() for gate in self.gates)
        require(same, "its gates are of different maps: all must be of the same ones", EditError)

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Full names of the weights of the maps that the gates add to."""
        return tuple(sorted(self.gates[0].pairs))

    def tensors(self) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for i, gate in enumerate(self.gates):
            found |= {f"{i}.{part}": getattr(gate, part) for part in _GATE_PARTS}
            for name, (up, down) in gate.pairs.items():
                found |= {f"{i}.{name}.up": up, f"{i}.{name}.down": down}
        return found

    def joined(self, *others: "ResidualGateEdit") -> "ResidualGateEdit":
        """Return one edit with the gates of all, of which each token has the widest open one.

        Edits that are merely applied together add up instead. Raises `EditError` unless all have one strength.
        """
        require(
            all(other.strength == self.strength for other in others),
            "edits of different strengths do not join: scale all of them alike",
            EditError,
        )
        return ResidualGateEdit(tuple(chain(self.gates, *(other.gates for other in others))), strength=self.strength)

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Run the gates inside the block. Raises `EditError` with both hashes if the edit is for other weights."""
        own = require_same_base(self.origin, model, self.bound_names)
        wanted = {name: (len(up), down.shape[1]) for name, (up, down) in self.gates[0].pairs.items()}
        wrong = next((name for name, w in own.items() if tuple(w.shape) != wanted[name]), None)
        require(
            wrong is None,
            f"the gate of {wrong} has other widths than the model's map: apply the edit to its own base",
            EditError,
        )
        passing = _Passing([gate.to(model.device) for gate in self.gates])

        def added(name: str, x: Tensor) -> Tensor:
            return self.strength * passing(name, x)

        with add_from_inputs(denoiser_modules(model, self.bound_names) if self.strength else {}, added):
            yield

    @torch.no_grad()
    def openings(self, model: ModelView, texts: tuple[str, ...]) -> list[float]:
        """Return for each text how far the widest gate is open for any of its own tokens, 0 to 1."""
        found = []
        for text in texts:
            states = model.condition([text]).states
            tokens = list(chain(*content_positions(model, text))) or slice(None)
            gates = [gate.to(model.device).open(states)[1][0, tokens] for gate in self.gates]
            found.append(float(torch.stack(gates).max()))
        return found

    def describe(self) -> str:
        return "changes no weight, its gates read the text beside the maps"

    def details(self) -> dict[str, object]:
        return {"texts": [list(gate.texts) for gate in self.gates], "strength": self.strength}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "ResidualGateEdit":
        """Invert `save`. Raises `EditError` if something is missing or does not fit."""
        texts = stored.details.get("texts")
        is_texts = isinstance(texts, list) and all(isinstance(own, list) for own in texts)
        require(is_texts, "its texts are not lists of texts", EditError)
        gates, left = [], dict(stored.tensors)
        for i, own in enumerate(texts or ()):
            parts = [left.pop(f"{i}.{part}", None) for part in _GATE_PARTS]
            tensors = {name.partition(".")[2]: left.pop(name) for name in list(left) if name.startswith(f"{i}.")}
            query, key, score = parts
            if query is None or key is None or score is None:
                raise EditError(f"its gate {i} has missing parts")
            require(all(isinstance(text, str) for text in own), "its texts are not lists of texts", EditError)
            gates.append(ResidualGate(tuple(own), query, key, score, low_rank_pairs(tensors)))
        require(not left, "it holds parts for which it names no texts", EditError)
        return cls(tuple(gates), strength=stored.number("strength"), origin=stored.origin)

    @torch.no_grad()
    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return figures of the edit: `relative_norm` is that of the maps' change where a gate is wide open.

        `least_gate` is how far the gates open for the target for which they open least, `gate_of_retained` for the
        retained text for which they open most.
        """
        own = model.reference(self.bound_names)
        size = sum(float(w.float().square().sum()) for w in own.values())
        change = 0.0
        for gate in self.gates:
            for up, down in gate.pairs.values():
                change += float(((up.T @ up) * (down @ down.T)).sum())
        found = {
            "relative_norm": abs(self.strength) * (max(change, 0.0) / size) ** 0.5 if size else 0.0,
            "least_gate": min(self.openings(model, request.targets)),
        }
        retain = tuple(text for text in request.retain if text)
        return found | ({"gate_of_retained": max(self.openings(model, retain))} if retain else {})


class _Passing:
    """What gates let through of the states that came last: all maps of a denoiser read the same."""

    def __init__(self, gates: list[ResidualGate]) -> None:
        self.gates, self.states = gates, torch.empty(0)
        self.passed: list[Tensor] = []

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if x.ndim != 3:
            return x.new_zeros(())
        if x is not self.states or x.requires_grad:  # A graph is of one forward pass.
            self.states = x
            opened = [gate.open(x) for gate in self.gates]
            widest = torch.stack([g for _, g in opened]).argmax(0)
            self.passed = [((widest == i) * g)[..., None] * e for i, (e, g) in enumerate(opened)]
        pairs = zip(self.gates, self.passed, strict=True)
        return torch.stack([gate.added(name, passed) for gate, passed in pairs]).sum(0)
