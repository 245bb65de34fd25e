"""Learning rate schedules: functions from a step to a factor of the learning rate."""

from collections.abc import Callable
from math import cos, pi

from ..core.errors import require


def cosine_restarts(steps: int, warm_up: int, cycles: int) -> Callable[[int], float]:
    """Build a schedule: a linear rise over `warm_up` steps, then `cycles` falls along a half cosine (SPM, CPE)."""
    require(
        warm_up >= 0 and cycles > 0,
        f"a schedule needs a warm-up of at least 0 steps and at least one cycle, got {warm_up} and {cycles}",
    )

    def rate(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        share = (step - warm_up) / max(1, steps - warm_up)
        return 0.5 * (1 + cos(pi * (cycles * share % 1.0))) if share < 1 else 0.0

    return rate
