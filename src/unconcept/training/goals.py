"""Goals of training: affine combinations of the teacher's predictions under several texts.

Weights sum to 1, so one goal serves noise, v and flow predictions alike: at fixed (x_t, t) they are affine in each
other.

In SDXL no text names the pipeline's unconditional side, which is zeros: a goal's "" is the encoded empty text, as in
ESD's script, unless its `TextEncodings` are `as_sampled`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from math import isclose
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.request import Request
from ..models import Conditioning, ModelView
from ..models.diffusion.sampler import is_guidance_distilled

_MOST_ENCODED_TEXTS = 1024  # size of the cache of encodings
_ANY_GUIDANCE = 2.0  # a scale at which a pipeline guides away from something
_MAX_TEXT_WEIGHT = 1e9  # beyond this weight of a text, rounding loses the sum of 1


@dataclass(frozen=True, eq=False)
class GivenStates:
    """States (1, l, d) that stand in place of a text: random or perturbed ones."""

    conditioning: Conditioning


TextOrStates = str | GivenStates
GuidanceReference = Literal["empty", "anchor"]


@dataclass
class TextEncodings:
    """Encodes texts and caches the encodings.

    Each text is encoded alone, by the model as it is at the first request, so the order of requests does not matter.
    """

    model: ModelView
    _known: OrderedDict[str, Conditioning]
    empty: Conditioning | None = None
    """What the empty text is encoded as; None: as any other text."""

    @classmethod
    def of(cls, model: ModelView) -> "TextEncodings":
        return cls(model, OrderedDict())

    @classmethod
    @torch.no_grad()
    def as_sampled(cls, model: ModelView) -> "TextEncodings":
        """Encode the empty text as the model's pipeline does to guide away from it: as zeros in SDXL."""
        if is_guidance_distilled(model):
            return cls.of(model)
        return cls(model, OrderedDict(), model.guide([""], _ANY_GUIDANCE).texts.rows(slice(1)))

    @torch.no_grad()
    def __call__(self, texts: Sequence[TextOrStates]) -> Conditioning:
        """Return one row for each text; given states are returned unchanged."""
        found = []
        for text in texts:
            if isinstance(text, GivenStates):
                found.append(text.conditioning)
                continue
            if text == "" and self.empty is not None:
                found.append(self.empty)
                continue
            if text not in self._known:
                self._known[text] = self.model.condition([text])
            self._known.move_to_end(text)
            found.append(self._known[text])
            if len(self._known) > _MOST_ENCODED_TEXTS:
                self._known.popitem(last=False)
        return Conditioning.concatenate(found)


@dataclass(frozen=True)
class PredictionGoal:
    """The goal y* = sum of weight times the teacher's prediction under the text. Texts of weight 0 are skipped."""

    weights: Mapping[TextOrStates, float]

    def __post_init__(self) -> None:
        strongest = max(map(abs, self.weights.values()), default=0.0)
        require(
            strongest < _MAX_TEXT_WEIGHT,
            f"a guidance of {strongest:.3g} drowns what it is added to: lower it below {_MAX_TEXT_WEIGHT:g}",
        )
        total = sum(self.weights.values())
        require(
            isclose(total, 1.0, abs_tol=1e-6),
            f"the weights of a goal sum to {total}: they must sum to 1, or it differs between noise and v predictions",
        )


def keep_goal(text: TextOrStates) -> PredictionGoal:
    """Build the goal of the teacher's own prediction. If the student's text differs, it learns to map it to `text`."""
    return PredictionGoal({text: 1.0})


def negative_guidance_goal(text: str, strength: float, reference: str = "", start: str | None = None) -> PredictionGoal:
    """Build start - strength (text - reference); without a start it is the reference (ESD, Eq. 5, with its eta)."""
    return _sum((reference if start is None else start, 1.0), (text, -strength), (reference, strength))


def reference_texts(method: str, request: Request, reference: GuidanceReference) -> dict[str, str]:
    """Return the text that negative guidance is taken about, by target: the empty text, or the target's own anchor.

    Differs: the papers take it about the empty text, which for "ink style wolf" unlearns the wolf and leaves the ink;
    about "flat style wolf" it unlearns what the two texts do not share.
    """
    if reference == "empty":
        return dict.fromkeys(request.targets, "")
    message = f"{method}: reference anchor, but the request has no anchors: give one for each target, or use empty"
    require(bool(request.anchors), message, RequestError)
    return dict(zip(request.targets, request.anchors, strict=True))


def guided_goal(text: str, strength: float, reference: str = "") -> PredictionGoal:
    """Build text + strength (text - reference), as in classifier-free guidance (TRCE)."""
    return _sum((text, 1.0 + strength), (reference, -strength))


def towards_goal(
    text: str, strength: float, away: Mapping[str, float], reference: str = "", start: str | None = None
) -> PredictionGoal:
    """Build start + strength (text - reference) - sum of weight (other - start) (ACE's unconditional goal).

    Without a start it is the reference.
    """
    begin = reference if start is None else start
    others = [part for other, weight in away.items() for part in ((other, -weight), (begin, weight))]
    return _sum((begin, 1.0), (text, strength), (reference, -strength), *others)


def _sum(*parts: tuple[str, float]) -> PredictionGoal:
    weights: dict[TextOrStates, float] = {}
    for text, weight in parts:
        weights[text] = weights.get(text, 0.0) + weight
    return PredictionGoal(weights)


@torch.no_grad()
def goal_predictions(
    model: ModelView, texts: TextEncodings, x_t: Tensor, t: Tensor, goals: Sequence[Sequence[PredictionGoal]]
) -> list[Tensor]:
    """Evaluate each list of b goals on latents x_t (b, c, h, w) at timesteps t (b,): one (b, c, h, w) for each list.

    One call of the denoiser makes all predictions, in the order in which the goals first name them. Call it while the
    model is the teacher.
    """
    asked = list(
        dict.fromkeys(
            (i, text)
            for each in goals
            for i, goal in enumerate(each)
            for text, weight in goal.weights.items()
            if weight
        )
    )
    rows = [i for i, _ in asked]
    said = model.denoise(x_t[rows], t[rows], texts([text for _, text in asked]))
    found = dict(zip(asked, said, strict=True))

    def mixed(i: int, goal: PredictionGoal) -> Tensor:
        return torch.stack([weight * found[i, text] for text, weight in goal.weights.items() if weight]).sum(0)

    return [torch.stack(list(starmap(mixed, enumerate(each)))) for each in goals]
