"""What an edit does to the text maps and to the weights: exact figures without a picture.

The same formulas make the figures in an edit's header and those of a ledger's state.
"""

from collections.abc import Mapping
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
    """How texts are read after an edit, summed over text maps. Texts are float32 rows (n * streams, d) of states."""

    def __init__(self, targets: Tensor, anchors: Tensor, retain: Tensor) -> None:
        self.targets, self.anchors, self.retain = targets, anchors, retain
        # Squared lengths by row: from target to anchor, what of that is left; a retained text's reading, its change.
        self.gap, self.left = torch.zeros(len(targets)), torch.zeros(len(targets))
        self.size, self.moved = torch.zeros(len(retain)), torch.zeros(len(retain))

    def add(self, w: Tensor, delta: Tensor) -> None:
        """One text map (o, d) of the base and what the edit adds to it, both float32."""
        wanted = (self.anchors - self.targets) @ w.T
        self.gap += squared_lengths(wanted)
        self.left += squared_lengths(wanted - self.targets @ delta.T)
        self.moved += squared_lengths(self.retain @ delta.T)
        self.size += squared_lengths(self.retain @ w.T)

    def residuals(self, texts: int) -> Tensor:
        """(texts,): 0 where a target is read as its anchor, 1 where as before; of several streams the worst."""
        return _worst_share(self.left, self.gap, texts)

    def drifts(self, texts: int) -> Tensor:
        """(texts,): how far a retained text's reading moved relative to its size; of several streams the worst."""
        return _worst_share(self.moved, self.size, texts)


def squared_lengths(rows: Tensor) -> Tensor:
    """(n,) on the CPU, of rows (n, d)."""
    return rows.square().sum(1).cpu()


def _worst_share(part: Tensor, whole: Tensor, texts: int) -> Tensor:
    shares = (part / whole.clamp_min(1e-30)).sqrt()
    return shares.view(texts, -1).amax(1) if texts else shares


_TEXT_INPUT_POSITIONS: tuple[tuple[TextInput, TextPosition], ...] = (
    ("states", "last_subject"),
    ("pooled", "pooled"),
)  # of a text into a denoiser, and where it is read


@torch.no_grad()
def weight_effect(edit: Edit, model: ModelView, request: Request, rank: Mapping[str, float]) -> dict[str, float]:
    """Exact figures without a picture, over the text maps the edit changes; the norm is over all it changes.

    `residual`: how far the worst target is still read from its anchor, 0 = as the anchor, 1 = unchanged; `residual of
    NAME`: each target. `drift`: how far the worst retained text's reading moved, relative to its size. `relative_norm`:
    of the weights' change. `norm_jump`: of the matrix whose norm changes most, the norm after over the norm before.
    `rank`: of the change, the largest of all layers, where its kind knows it. Without anchors there is no residual.
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
    # A trained edit promises nothing of single maps.
    if read and request.anchors and "last_loss" not in edit.solve_figures:
        each = zip(request.targets, residuals.tolist(), strict=True)
        figures |= {"residual": float(residuals.max())} | {f"residual of {target}": value for target, value in each}
    if read and len(drifts):
        figures["drift"] = float(drifts.max())
    return figures


def _reading_change(
    edit: Edit, model: ModelView, request: Request, maps: set[str], at: TextPosition, norms: "_Norms"
) -> ReadingChange:
    """Of a request's texts at one position, through the maps that read there; their weights go into `norms`."""
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
    """Sums over all weights that an edit changes, and the largest jump of one of their norms."""

    change: float = 0.0
    weight: float = 0.0
    jump: float = 1.0

    def add(self, w: Tensor, delta: Tensor) -> None:
        """One weight and what is added to it. What is no matrix, or was nothing, has no jump."""
        change, weight = float(delta.square().sum()), float(w.square().sum())
        self.change, self.weight = self.change + change, self.weight + weight
        if w.ndim > 1 and weight:
            after = weight + 2 * float(torch.dot(delta.flatten(), w.flatten())) + change
            self.jump = max(
                self.jump, (max(after, 0.0) / weight) ** 0.5, key=lambda ratio: max(ratio, 1 / max(ratio, 1e-30))
            )

    def figures(self) -> dict[str, float]:
        return {"relative_norm": (self.change / self.weight) ** 0.5 if self.weight else 0.0, "norm_jump": self.jump}
