"""How the learning rate moves from step to step, as shares of itself."""

from collections.abc import Callable
from math import cos, pi

from ..core.errors import require


def cosine_restarts(steps: int, warm_up: int, cycles: int) -> Callable[[int], float]:
    """Up in a straight line over `warm_up` steps, then down a half cosine from 1 to 0,
    `cycles` times over (SPM, CPE).
    """
    require(
        warm_up >= 0 and cycles > 0,
        f"a schedule needs a warm-up >= 0 and at least one cycle, got {warm_up} and {cycles}",
    )

    def rate(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        share = (step - warm_up) / max(1, steps - warm_up)
        return 0.5 * (1 + cos(pi * (cycles * share % 1.0))) if share < 1 else 0.0

    return rate
