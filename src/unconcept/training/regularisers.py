"""Regularisers of continual erasure, for every trained method and in any combination: arXiv:2511.07970 (ICLR 2026).

L1-SP and L2-SP hold back the drift, selective fine-tuning (SelFT) chooses what may move, and a projection keeps what
cross-attention reads of protected texts. Merging, the fourth, is done to finished edits: `edits/merge.py`.

    with regularised(Regularisers(l2sp=25000.0, projection="update"), request):
        edit = method.erase(model, request)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import SettingsError, require
from ..core.request import Request
from ..core.settings import build_settings, default_settings
from ..linalg.masked_projection import mask_factors
from ..linalg.null_space import dissimilar_rows, identity_projector, project_out, soft_projection_basis
from ..models import ModelView
from ..models.text.state_rows import content_positions, fits_context
from ..prompts.captions import load_captions
from ..prompts.text_matching import without_names
from .gradient_transforms import (
    GradientTransform,
    MaskedSubspaceProjection,
    StartDistancePenalty,
    SubspaceProjection,
    WeightMask,
    top_share_mask,
)
from .session import TrainingStart, current_session, training_session

_DUPLICATE_COSINE = 0.95  # cosine from which the authors take two protected texts for one
_DOWN_SUFFIX = ".down"  # what the first matrix of a low-rank pair is called beside the map's name


@dataclass(frozen=True)
class Regularisers:
    """The defaults change nothing.

    The paper's weights: `l1sp` 50, `l2sp` 25000, `selft_topk` 0.05 to 0.4, 200 protected texts.
    """

    l1sp: float = 0.0
    """Weight of the mean absolute drift of what is trained."""
    l2sp: float = 0.0
    """Weight of its mean square."""
    reference: Literal["previous", "pretrained"] = "previous"
    """Drift from the weights as the request found them, or from the unedited ones."""
    selft_topk: float = 1.0
    """Share of all trained numbers that may move, the most important for the method's loss."""
    selft_draws: int = 50
    """Steps of the method's training whose gradients tell the importance."""
    projection: Literal["none", "update", "gradient"] = "none"
    """Update: what is read of protected texts stays exactly; gradient: the authors' form."""
    projection_prompts: str = ""
    """Texts to protect beside the retained ones: a packaged caption set or a file."""
    projection_count: int = 200
    """Of those texts at most, the first: as many as the text's width leave nothing to erase in."""

    def __post_init__(self) -> None:
        for name in ("l1sp", "l2sp"):
            require(
                0 <= getattr(self, name) < float("inf"),
                f"regulariser {name} must be >= 0 and finite, got {getattr(self, name)}",
            )
        require(
            0 < self.selft_topk <= 1,
            f"regulariser selft_topk must be a share, above 0 and at most 1, got {self.selft_topk}",
        )
        for name in ("selft_draws", "projection_count"):
            require(getattr(self, name) > 0, f"regulariser {name} must be > 0, got {getattr(self, name)}")
        known = default_settings(Regularisers)
        needs: dict[str, Any] = {
            "reference": self.l1sp or self.l2sp,
            "selft_draws": self.selft_topk < 1,
            "projection_prompts": self.projection != "none",
        }
        needs["projection_count"] = self.projection_prompts
        idle = [name for name, used in needs.items() if getattr(self, name) != known[name] and not used]
        require(
            not idle,
            f"regulariser {', '.join(idle)} would change nothing: give the regulariser that it belongs to, or leave"
            " it out",
        )

    def data(self) -> dict[str, Any]:
        """What differs from the defaults."""
        known = default_settings(Regularisers)
        return {name: value for name, value in asdict(self).items() if value != known[name]}


NO_REGULARISERS = Regularisers()


@contextmanager
def use_regularisers(chosen: Regularisers, request: Request, earlier: Sequence[str] = ()) -> Iterator[None]:
    """Inside, trainings for the request are regularised. `SettingsError` if there were none.

    The projection protects what the request retains, the captions, and targets erased `earlier`, but nothing that names
    a target.
    """
    if chosen == NO_REGULARISERS:
        yield
        return
    others = without_names(
        [*earlier, *load_captions(chosen.projection_prompts)[: chosen.projection_count]], request.targets
    )
    texts = tuple(dict.fromkeys((*request.retain, *others)))
    begun = list[TrainingStart]()

    def rules(start: TrainingStart) -> Sequence[GradientTransform]:
        begun.append(start)
        return _rules(chosen, start, texts)

    about = {"regularisers": asdict(chosen), "protected": texts}
    with training_session(replace(current_session(), transforms=rules, about=about)):
        yield
    require(
        bool(begun),
        "regularisers act on a training, and this method has none that goes step by step: leave them out",
        SettingsError,
    )


def _rules(chosen: Regularisers, start: TrainingStart, texts: Sequence[str]) -> list[GradientTransform]:
    """Drift, then what may move: the order of gradients."""
    own = [tensor.detach().clone() for tensor in start.tensors.values()]
    found: list[GradientTransform] = []
    if chosen.l1sp or chosen.l2sp:
        held = own if chosen.reference == "previous" else _pretrained(start)
        found += [
            StartDistancePenalty(held, weight, power)
            for weight, power in ((chosen.l1sp, 1), (chosen.l2sp, 2))
            if weight
        ]
    masks = _important(chosen, start) if chosen.selft_topk < 1 else None
    if chosen.projection == "none":
        return found + ([WeightMask(own, masks)] if masks else [])
    exact, reading = chosen.projection == "update", _readers(start)
    rows = protected_rows(start.model, texts)
    taken = (
        identity_projector(rows.shape[1]).protecting(rows.cpu()).removed_basis
        if exact
        else soft_projection_basis(dissimilar_rows(rows, _DUPLICATE_COSINE))
    )
    begin = [
        project_out(tensor, taken.to(tensor)) if which == "adapter" else tensor
        for which, tensor in zip(reading, own, strict=True)
    ]
    bases = [None if which is None else taken.to(tensor.device) for which, tensor in zip(reading, own, strict=True)]
    if exact and masks:
        return [*found, MaskedSubspaceProjection(begin, masks, bases, mask_factors(masks, bases))]
    return [*found, *([WeightMask(own, masks)] if masks else []), SubspaceProjection(begin, bases, exact)]


def _pretrained(start: TrainingStart) -> list[Tensor]:
    """Each weight as it was before all edits. An adapter has no such past: it is held to where it begins."""
    return [
        start.model.original_weights.get(name, tensor).detach().to(tensor, copy=True)
        for name, tensor in start.tensors.items()
    ]


def _important(chosen: Regularisers, start: TrainingStart) -> list[Tensor]:
    """Masks of the entries with the largest |w g|, g the gradient of the method's own loss as it begins: one threshold
    for all tensors.

    Adapters begin where they do nothing and |w g| is 0 everywhere: there |g| tells. Differs: the authors sum a loss of
    their own over the 50 steps of a trajectory under guidance.
    """
    gradients = start.gradients(chosen.selft_draws)
    scores = [(tensor.detach() * g).abs() for tensor, g in zip(start.tensors.values(), gradients, strict=True)]
    return top_share_mask(
        scores if any(bool(score.any()) for score in scores) else [g.abs() for g in gradients], chosen.selft_topk
    )


@torch.no_grad()
def protected_rows(model: ModelView, texts: Sequence[str]) -> Tensor:
    """(n, d) float64: the mean state of each text's own tokens, without start, end and padding.

    Differs: the authors take the tokens behind a known beginning ("an image of"), or the last one where there is none.
    """
    held = [text for text in texts if text.strip() and fits_context(model, text)]
    message = (
        "regulariser projection has nothing to protect: name texts with --retain, or --regulariser"
        " projection_prompts=everyday"
    )
    require(bool(held), message, SettingsError)
    found = []
    for text in held:
        states = model.embed([text], at="all")[0]
        found += [states[list(own)].double().mean(0) for own in content_positions(model, text)]
    return torch.stack(found)


def _readers(start: TrainingStart) -> list[Literal["weight", "adapter"] | None]:
    """Which of the trained tensors read text states: a map's own weight, or the way in of an adapter beside it.

    An adapter's way in is projected as a whole, its random beginning too, since up down c is to be zero; its way out is
    free.
    """
    maps = start.model.text_maps()
    found: list[Literal["weight", "adapter"] | None] = [
        "weight" if name in maps else "adapter" if name.removesuffix(_DOWN_SUFFIX) in maps else None
        for name in start.tensors
    ]
    message = (
        "regulariser projection has no effect here: nothing that is trained reads the text's states; choose other"
        " parameters, or another regulariser"
    )
    require(any(found), message, SettingsError)
    return found


def build_regularisers(values: Mapping[str, Any], mechanism: str, method: str) -> Regularisers:
    """Checked; `SettingsError` for a method that is not trained step by step."""
    chosen = build_settings(Regularisers, values, "regulariser")
    require_stepwise_training(chosen, mechanism, method)
    return chosen


def require_stepwise_training(chosen: Regularisers, mechanism: str, method: str) -> None:
    """`SettingsError` if there are any and the method is not trained step by step."""
    require(
        chosen == NO_REGULARISERS or mechanism == "trained",
        f"{method} is {mechanism}: regularisers act on trained methods alone; leave them out",
        SettingsError,
    )
