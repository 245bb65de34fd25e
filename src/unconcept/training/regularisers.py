"""Regularisers of continual erasure, for every trained method and in any combination: arXiv:2511.07970 (ICLR 2026).

L1-SP and L2-SP limit the drift, selective fine-tuning (SelFT) chooses the numbers that may move, and a projection
preserves the keys and values of protected texts. The fourth, merging, works on finished edits: `edits/merge.py`.

    with use_regularisers(Regularisers(l2sp=25000.0, projection="update"), request):
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
from ..models.module_view import ModuleView
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

_DUPLICATE_COSINE = 0.95  # The authors take two protected texts for one from this cosine.
_DOWN_SUFFIX, _UP_SUFFIX = ".down", ".up"  # added to a map's name, they name the matrices of a low-rank pair


@dataclass(frozen=True)
class Regularisers:
    """Regularisers of a training. The defaults change nothing.

    The paper's values: `l1sp` 50, `l2sp` 25000, `selft_topk` 0.05 to 0.4, 200 protected texts.
    """

    l1sp: float = 0.0
    """Weight of the mean absolute drift of the trained numbers."""
    l2sp: float = 0.0
    """Weight of the mean squared drift of the trained numbers."""
    reference: Literal["previous", "pretrained"] = "previous"
    """Measure drift from the weights before this request (previous), or from the unedited ones (pretrained)."""
    selft_topk: float = 1.0
    """Share of all trained numbers that may move: those most important for the method's loss."""
    selft_draws: int = 50
    """Steps of the method's training whose gradients measure the importance."""
    projection: Literal["none", "update", "gradient"] = "none"
    """Protect the keys and values of protected texts: exactly (update), or in the authors' form (gradient)."""
    projection_prompts: str = ""
    """Texts to protect beside the retained ones: a packaged caption set or a file."""
    projection_count: int = 200
    """Use at most the first so many of these texts; as many as the text's width would leave nothing to erase in."""

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
            f"regulariser {', '.join(idle)} would change nothing: set the regulariser that it belongs to, or leave"
            " it out",
        )

    def data(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults."""
        known = default_settings(Regularisers)
        return {name: value for name, value in asdict(self).items() if value != known[name]}


NO_REGULARISERS = Regularisers()


@contextmanager
def use_regularisers(chosen: Regularisers, request: Request, earlier: Sequence[str] = ()) -> Iterator[None]:
    """Regularise the trainings inside the block. Raises `SettingsError` if there were none.

    The projection protects the request's retained texts, the captions, and targets erased `earlier`, but no text that
    names a target.
    """
    if chosen == NO_REGULARISERS:
        yield
        return
    others = without_names(
        [*earlier, *load_captions(chosen.projection_prompts)[: chosen.projection_count]], request.targets
    )
    texts = tuple(dict.fromkeys((*request.retain, *others)))
    begun = list[tuple[list[Tensor], list[GradientTransform]]]()

    def rules(start: TrainingStart) -> Sequence[GradientTransform]:
        """What is trained again in a later phase keeps its rules, which are about the weights before the request."""
        own = list(start.tensors.values())
        for tensors, known in begun:
            if [*map(id, tensors)] == [*map(id, own)]:
                return known
        begun.append((own, _rules(chosen, start, texts)))
        return begun[-1][1]

    about = {"regularisers": asdict(chosen), "protected": texts}
    with training_session(replace(current_session(), transforms=rules, about=about)):
        yield
    require(
        bool(begun),
        "regularisers need a training step by step, and this method has none: leave them out",
        SettingsError,
    )


def _rules(chosen: Regularisers, start: TrainingStart, texts: Sequence[str]) -> list[GradientTransform]:
    """Build the transforms in the order of gradients: drift first, then mask and projection."""
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
    rows = protected_rows(_text_model(start), texts)
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
    """Return each weight from before all edits; an adapter has none, so its initial value is used."""
    return [
        start.model.original_weights.get(name, tensor).detach().to(tensor, copy=True)
        for name, tensor in start.tensors.items()
    ]


def _important(chosen: Regularisers, start: TrainingStart) -> list[Tensor]:
    """Return masks of the entries with the largest |w g|, with one threshold for all tensors.

    g is the gradient of the method's own loss before the first step. Adapters begin at zero effect, where |w g| is 0
    but for what a penalty of their size adds: for them |g| is used. Differs: the authors sum a loss of their own over
    the 50 steps of a trajectory under guidance.
    """
    gradients = start.gradients(chosen.selft_draws)
    scores = [(tensor.detach() * g).abs() for tensor, g in zip(start.tensors.values(), gradients, strict=True)]
    is_new = any(name.endswith(_UP_SUFFIX) and not bool(tensor.any()) for name, tensor in start.tensors.items())
    is_scored = not is_new and any(bool(score.any()) for score in scores)
    return top_share_mask(scores if is_scored else [g.abs() for g in gradients], chosen.selft_topk)


def _text_model(start: TrainingStart) -> ModelView:
    if isinstance(start.model, ModuleView):
        raise SettingsError(f"regulariser projection protects texts, and {start.model.name} reads none: leave it out")
    return start.model


@torch.no_grad()
def protected_rows(model: ModelView, texts: Sequence[str]) -> Tensor:
    """Return the mean state of each text's own tokens, without start, end and padding, (n, d) float64.

    Differs: the authors take the tokens after a known beginning ("an image of"), or the last token if there is none.
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
    """Find the trained tensors that take text states as input: a map's own weight, or an adapter's `down` matrix.

    The `down` matrix is projected as a whole, with its random initial value, because up down c must be zero; `up` is
    free.
    """
    maps = _text_model(start).text_maps()
    found: list[Literal["weight", "adapter"] | None] = [
        "weight" if name in maps else "adapter" if name.removesuffix(_DOWN_SUFFIX) in maps else None
        for name in start.tensors
    ]
    message = (
        "regulariser projection has no effect here: none of the trained parameters takes text states as input; choose"
        " other parameters, or another regulariser"
    )
    require(any(found), message, SettingsError)
    return found


def build_regularisers(values: Mapping[str, Any], mechanism: str, method: str) -> Regularisers:
    """Build and check regularisers. Raises `SettingsError` if the method is not trained step by step."""
    chosen = build_settings(Regularisers, values, "regulariser")
    require_stepwise_training(chosen, mechanism, method)
    return chosen


def require_stepwise_training(chosen: Regularisers, mechanism: str, method: str) -> None:
    """Raise `SettingsError` if regularisers are chosen and the method is not trained step by step."""
    require(
        chosen == NO_REGULARISERS or mechanism == "trained",
        f"{method} is {mechanism}: regularisers act on trained methods alone; leave them out",
        SettingsError,
    )
