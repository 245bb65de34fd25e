"""Options of any training, whatever its method: precision, recomputation, and augmentation of samples."""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from ..core.errors import require

PrecisionName = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training, given by the caller of a method as flags or in a recipe's `[training]`.

    The defaults change nothing.
    """

    budget: Literal["targets", "fixed"] = "targets"
    """targets: a method's budget serves up to four targets and grows in proportion beyond, tenfold at most; fixed: not.
    """
    mixed_precision: PrecisionName = "no"
    """Precision of the networks' computations; weights and optimizer stay float32. fp16 needs a GPU."""
    checkpointing: bool = False
    """Recompute the denoiser's activations: less memory, a third more time."""
    random_erasing: float = 0.0
    """p, the probability that a rectangle of a sample is erased (Random Erasing)."""
    sl: float = 0.02
    """Smallest area of the rectangle, as a share of the sample's area."""
    sh: float = 0.4
    """Largest area of the rectangle, as a share of the sample's area."""
    r1: float = 0.3
    """Smallest ratio of the rectangle's height to its width; the largest is the inverse."""
    dom: float = 0.0
    """T: skip a step whose loss is below this share of its first value (DOM); 0 skips none."""
    dom_warm_up: float = 0.5
    """K: share of all steps after which DOM begins."""

    def __post_init__(self) -> None:
        require(0 <= self.random_erasing <= 1, f"random_erasing is a probability, 0 to 1, got {self.random_erasing}")
        require(
            0 < self.sl <= self.sh < 1,
            f"sl and sh must be shares with 0 < sl <= sh < 1, got {self.sl} and {self.sh}",
        )
        require(0 < self.r1 <= 1, f"r1 must be above 0 and at most 1 (a square), got {self.r1}")
        require(0 <= self.dom < inf, f"dom must be >= 0 (0 skips no step) and finite, got {self.dom}")
        require(0 <= self.dom_warm_up <= 1, f"dom_warm_up is a share of the steps, 0 to 1, got {self.dom_warm_up}")


DEFAULT_TRAINING_OPTIONS = TrainingOptions()


def changed_options(options: TrainingOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults."""
    return {name: value for name, value in vars(options).items() if value != vars(DEFAULT_TRAINING_OPTIONS)[name]}
