"""A-STAR: Agarwal et al., ICCV 2023, arXiv:2306.14544. It erases nothing; it keeps what a prompt names in the picture.

While sampling, moves the latents so that each concept of a prompt attends to places of its own, and keeps them.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import require
from ..core.request import Request
from ..edits.latent_steering import AttentionSteering, LatentSteeringEdit
from ..models import ModelView
from .registry import NO_SERVICES, MethodServices, Unreached, method


@method(
    "a-star",
    paper="arXiv:2306.14544",
    families=("sd1", "sd2", "sdxl"),
    does="keep",
    mechanism="steering",
    unsupported_reason="it reads cross-attention; joint attention is shared with the picture's own places",
)
@dataclass(frozen=True)
class AStar:
    """Keeps the targets in pictures whose prompts name them, beside an edit that erases others too.

    (inferred) The paper gives no step size: schedule and size are Attend-and-Excite's, places the strongest fifth.
    """

    unreached: ClassVar[Unreached] = "nothing"

    step_size: float = 20.0
    """Factor alpha_t of the gradient at the first step, >= 0; it falls to 0.71 of it at the last."""
    largest_move: float = 0.5
    """Most that one step may change a latent, > 0 (inferred)."""
    attention_size: int = 16
    """Side of the attention maps that are read, >= 1; the nearest that the model has."""
    share: float = 0.2
    """Share of places that a concept holds for the next step, above 0 and below 1 (inferred)."""
    segregation: float = 1.0
    """Weight of L_seg, the overlap of every two concepts, >= 0."""
    retention: float = 1.0
    """Weight of L_ret, the places that a concept has lost since the step before, >= 0."""

    def __post_init__(self) -> None:
        for name in ("step_size", "segregation", "retention"):
            require(getattr(self, name) >= 0, f"a-star: {name} must be >= 0, got {getattr(self, name)}")
        require(self.largest_move > 0, f"a-star: largest_move must be > 0, got {self.largest_move}")
        require(self.attention_size >= 1, f"a-star: attention_size must be >= 1, got {self.attention_size}")
        require(0 < self.share < 1, f"a-star: share must be above 0 and below 1, got {self.share}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> LatentSteeringEdit:
        """z' = z - alpha_t grad (L_seg + L_ret) before every step, with the maps of the conditional prediction.

        Differs: a latent moves by `largest_move` at most; a step's places come from the prediction before its move,
        which saves a call. (inferred) A concept's tokens are averaged.
        """
        steering = AttentionSteering(
            self.step_size, self.largest_move, self.attention_size, self.share, self.segregation, self.retention
        )
        return LatentSteeringEdit(request.targets, tuple(sorted(model.text_maps())), steering)
