"""How any training may run, whatever its method: what it computes in, what of it is recomputed, and what is done to its
samples.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from ..core.errors import require

PrecisionName = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainingOptions:
    """Given by whoever calls a method, as flags or as a recipe's `[training]`. The defaults change nothing."""

    mixed_precision: PrecisionName = "no"
    """The networks compute in it, weights and optimizer stay float32; fp16 needs a GPU."""
    checkpointing: bool = False
    """Recompute the denoiser's activations: less memory, a third more time."""
    random_erasing: float = 0.0
    """p, the probability that a rectangle of a sample is erased (Random Erasing)."""
    sl: float = 0.02
    """Its least share of the sample's area."""
    sh: float = 0.4
    """Its largest."""
    r1: float = 0.3
    """Its height over its width is between this and the inverse."""
    dom: float = 0.0
    """T: a step is left out where its loss is below this share of what it was at first (DOM)."""
    dom_warm_up: float = 0.5
    """K: only after this share of all steps."""

    def __post_init__(self) -> None:
        require(0 <= self.random_erasing <= 1, f"random_erasing is a probability, 0 to 1, got {self.random_erasing}")
        require(
            0 < self.sl <= self.sh < 1,
            f"an erased share is from sl to sh, above 0 and below 1, got {self.sl} and {self.sh}",
        )
        require(0 < self.r1 <= 1, f"r1 must be above 0 and at most 1, a square, got {self.r1}")
        require(0 <= self.dom < inf, f"dom must be >= 0, where no step is left out, and finite, got {self.dom}")
        require(0 <= self.dom_warm_up <= 1, f"dom_warm_up is a share of the steps, 0 to 1, got {self.dom_warm_up}")


DEFAULT_TRAINING_OPTIONS = TrainingOptions()


def changed_options(options: TrainingOptions) -> dict[str, Any]:
    """What is not as usual."""
    return {name: value for name, value in vars(options).items() if value != vars(DEFAULT_TRAINING_OPTIONS)[name]}
