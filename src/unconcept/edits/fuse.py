"""Fuses several edits into one.

`fuse_edits` is MACE's third stage (Lu et al., CVPR 2024, arXiv:2403.06135), for any low-rank edits of text maps.
"""

from collections.abc import Sequence

import torch

from ..core.errors import EditError, RequestError, require
from ..linalg.conditions import condition_figure
from ..linalg.low_rank import changes_on_rows, fuse_pairs, sum_pairs, without_preserved
from ..linalg.moments import SecondMoments
from ..linalg.ridge import ridge_system
from ..models import ModelView
from ..models.text.state_rows import fits_context, text_state_moments
from .base import Edit
from .weight_edits import DenseEdit, LowRankEdit

# An edit for one concept, and the prompts on which its effect must be kept.
_FusionPart = tuple[LowRankEdit, Sequence[str]]


@torch.no_grad()
def fuse_edits(
    model: ModelView,
    parts: Sequence[_FusionPart],
    lamb: float = 0.0,
    preserve: SecondMoments | None = None,
    under: Edit | None = None,
) -> LowRankEdit | DenseEdit:
    """Solve for one edit that has each part's effect on that part's prompts.

    W* = (sum_i (W + dW_i) G_i + W0 P + lam W) (sum_i G_i + P + lam I)^-1. W0 are the model's own weights and
    W = W0 + `under`: the parts were made on top of that edit (MACE's refinement), and the result contains it.
    G_i (d, d) are the moments of all rows of prompts i; P are the weighted moments of the texts that W0 must still map
    as before. With A the matrix to invert, the edit is W* - W0 = under (I - P A^-1) + sum_i dW_i G_i A^-1. Its rank is
    at most the sum of the parts' ranks; it is dense if `under` is not low-rank.
    """
    _check(model, parts, under)
    total, wanted = SecondMoments.empty(model.embed([""]).shape[1], model.device), []
    for edit, prompts in parts:
        found = text_state_moments(model, prompts)
        total += found
        wanted.append(changes_on_rows(edit.pairs, found))
    system = ridge_system(total, preserve or SecondMoments.empty(total.width, model.device), lamb)
    wide, figures = torch.promote_types(model.dtype, torch.float32), condition_figure(system.factor.condition)
    pairs = fuse_pairs(wanted, system)
    if under is None or isinstance(under, LowRankEdit):
        pairs = sum_pairs([without_preserved(under.pairs, system) if under else {}, pairs])
        narrow = {name: (up.to(wide), down.to(wide)) for name, (up, down) in pairs.items()}
        return LowRankEdit(narrow, solve_figures=figures)
    deltas = {name: up @ down for name, (up, down) in pairs.items()}
    for name, weight in model.reference(under.names).items():
        delta = under.delta(name, weight.to(system.factor.lower))
        deltas[name] = delta + system.preserved_correction(-delta) + deltas.get(name, torch.zeros_like(delta))
    return DenseEdit({name: delta.to(wide) for name, delta in deltas.items()}, solve_figures=figures)


def prior_moments(
    model: ModelView, captions: Sequence[str], retain: Sequence[str], size: int, weight: float
) -> SecondMoments:
    """Sum the moments (d, d) of captions and, `weight` times, of retained texts: MACE's general and domain prior.

    Those of captions are scaled to a number of `size` captions; 0 does not scale them. Captions that are too long for
    the encoder are left out.
    """
    texts = [text for text in captions if fits_context(model, text)]
    general = text_state_moments(model, texts).weighted(size / len(texts) if size and texts else 1.0)
    return general + text_state_moments(model, retain).weighted(weight)


def _check(model: ModelView, parts: Sequence[_FusionPart], under: Edit | None) -> None:
    """Raise `EditError` for an edit of anything but this model's text maps, `RequestError` for one without prompts."""
    require(bool(parts), "nothing to fuse: give at least one edit with its prompts", RequestError)
    maps = model.text_maps()
    for i, (edit, prompts) in enumerate(parts):
        require(
            bool(prompts),
            f"edit {i + 1} of {len(parts)} has no prompts: name those on which its effect must be kept",
            RequestError,
        )
        for name, (up, down) in edit.pairs.items():
            found = (len(up), down.shape[1])
            fits = name in maps and tuple(maps[name].shape) == found
            require(
                fits,
                f"edit {i + 1} of {len(parts)}: {name} {found} is no text map of {model.name}: fuse only edits of"
                " text maps",
                EditError,
            )
    for name in under.names if under is not None else ():
        require(
            name in maps,
            f"the edit `under`: {name} is no text map of {model.name}: fuse only edits of text maps",
            EditError,
        )
