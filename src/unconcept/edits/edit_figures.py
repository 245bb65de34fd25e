"""Exact figures of what an edit does to the text maps and to the weights, computed without a picture.

The header of an edit and the state of a ledger use the same formulas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.request import Request
from ..models import ModelView
from ..models.model_view import TextInput
from ..models.text.state_rows import embed_together
from ..models.text.tokenizer import TextPosition
from .base import Edit


class ReadingChange:
    """Measures how an edit changes what the text maps compute from texts, summed over text maps.

    Texts are float32 rows (n * streams, d) of states.
    """

    def __init__(self, targets: Tensor, anchors: Tensor, retain: Tensor) -> None:
        self.targets, self.anchors, self.retain = targets, anchors, retain
        # Squared lengths by row: the gap from target to anchor, the part of it that is left after the edit; the output
        # for a retained text, its change.
        self.gap, self.left = torch.zeros(len(targets)), torch.zeros(len(targets))
        self.size, self.moved = torch.zeros(len(retain)), torch.zeros(len(retain))

    def add(self, w: Tensor, delta: Tensor) -> None:
        """Add one text map: its weight (o, d) in the base and what the edit adds to it, both float32."""
        wanted = (self.anchors - self.targets) @ w.T
        self.gap += squared_lengths(wanted)
        self.left += squared_lengths(wanted - self.targets @ delta.T)
        self.moved += squared_lengths(self.retain @ delta.T)
        self.size += squared_lengths(self.retain @ w.T)

    def compare(self, w: Tensor, edited: Tensor, states: Sequence[Tensor]) -> None:
        """Add one text map: its weights (o, d) before and after an edit, and the states of the texts after it."""
        targets, _, retain = states
        old, kept = self.anchors @ w.T, self.retain @ w.T
        self.gap += squared_lengths(old - self.targets @ w.T)
        self.left += squared_lengths(old - targets @ edited.T)
        self.moved += squared_lengths(retain @ edited.T - kept)
        self.size += squared_lengths(kept)

    def residuals(self, texts: int) -> Tensor:
        """Distance left to the anchor, (texts,): 0 if a target reads as its anchor, 1 if as before.

        Of several streams, the worst counts.
        """
        return _worst_share(self.left, self.gap, texts)

    def drifts(self, texts: int) -> Tensor:
        """Relative change of the output for each retained text, (texts,). Of several streams, the worst counts."""
        return _worst_share(self.moved, self.size, texts)


def squared_lengths(rows: Tensor) -> Tensor:
    """Squared lengths (n,) of rows (n, d), on the CPU."""
    return rows.square().sum(1).cpu()


def _worst_share(part: Tensor, whole: Tensor, texts: int) -> Tensor:
    shares = (part / whole.clamp_min(1e-30)).sqrt()
    return shares.view(texts, -1).amax(1) if texts else shares


_TEXT_INPUT_POSITIONS: tuple[tuple[TextInput, TextPosition], ...] = (
    ("states", "last_subject"),
    ("pooled", "pooled"),
)  # Each input through which text enters a denoiser, and the token position at which we measure it.


@torch.no_grad()
def weight_effect(edit: Edit, model: ModelView, request: Request, rank: Mapping[str, float]) -> dict[str, float]:
    """Compute exact figures of an edit of weights, without a picture.

    Residual and drift cover the text maps that the edit changes, norms cover all weights that it changes.

    `residual`: distance left between the worst target and its anchor, 0 = reads as the anchor, 1 = unchanged;
    `residual of NAME`: the same for each target. `drift`: relative change of the output for the worst retained text.
    `relative_norm`: norm of the change over the norm of the weights. `norm_jump`: norm after over norm before, of the
    matrix whose norm changes most. `rank`: the largest rank of the change in any layer, where the kind of edit knows
    it. Without anchors there is no residual.
    """
    norms, kept = _Norms(), set(edit.names)
    residuals, drifts = torch.zeros(len(request.targets)), torch.zeros(len(request.retain))
    read: set[str] = set()
    for reads, at in _TEXT_INPUT_POSITIONS:
        maps = kept.intersection(model.text_maps(reads))
        if maps:
            change = _reading_change(edit, model, request, maps, at, norms)
            residuals = torch.maximum(residuals, change.residuals(len(residuals)))
            drifts = torch.maximum(drifts, change.drifts(len(drifts)))
            read |= maps
    for name, w in model.reference(name for name in edit.names if name not in read).items():
        norms.add(w.float(), edit.delta(name, w).float())
    figures = {**norms.figures(), **rank}
    # A trained edit makes no promise about single maps, so it gets no residual.
    if read and request.anchors and "last_loss" not in edit.solve_figures:
        each = zip(request.targets, residuals.tolist(), strict=True)
        figures |= {"residual": float(residuals.max())} | {f"residual of {target}": value for target, value in each}
    if read and len(drifts):
        figures["drift"] = float(drifts.max())
    return figures


def _reading_change(
    edit: Edit, model: ModelView, request: Request, maps: set[str], at: TextPosition, norms: "_Norms"
) -> ReadingChange:
    """Measure a request's texts at one position through `maps`; also adds the weights of these maps to `norms`."""
    texts = request.targets, request.anchors or request.targets, request.retain
    change = ReadingChange(*(rows.float() for rows in embed_together(model, *texts, at=at)))
    for name, w in model.reference(maps).items():
        w = w.to(change.targets.device)
        delta, w = edit.delta(name, w).float(), w.float()
        change.add(w, delta)
        norms.add(w, delta)
    return change


@dataclass
class _Norms:
    """Squared norms summed over all weights that an edit changes, and the largest jump of one matrix's norm."""

    change: float = 0.0
    weight: float = 0.0
    jump: float = 1.0

    def add(self, w: Tensor, delta: Tensor) -> None:
        """Add one weight and its change. Vectors and weights that were all zero have no jump."""
        change, weight = float(delta.square().sum()), float(w.square().sum())
        self.change, self.weight = self.change + change, self.weight + weight
        if w.ndim > 1 and weight:
            after = weight + 2 * float(torch.dot(delta.flatten(), w.flatten())) + change
            self.jump = max(
                self.jump, (max(after, 0.0) / weight) ** 0.5, key=lambda ratio: max(ratio, 1 / max(ratio, 1e-30))
            )

    def figures(self) -> dict[str, float]:
        return {"relative_norm": (self.change / self.weight) ** 0.5 if self.weight else 0.0, "norm_jump": self.jump}
