"""The search for a layer and the length of its one step: a Pareto front and a bisection (SLUG)."""

from collections.abc import Callable, Mapping


def pareto_front(matters: Mapping[str, float], disturbs: Mapping[str, float]) -> list[str]:
    """Return the names for which no other both matters more and disturbs less."""

    def is_beaten(name: str) -> bool:
        return any(matters[n] > matters[name] and disturbs[n] < disturbs[name] for n in matters)

    return [name for name in matters if not is_beaten(name)]


def bisect_ratio(
    is_gone: Callable[[float], bool], start: float, evaluations: int, low: float = 0.0
) -> tuple[float, bool]:
    """Search the smallest ratio above `low` at which the target is gone: double until it is, then bisect.

    Returns the best ratio tried, or the largest if the target never was gone, and whether it was.
    """
    high, r = None, start
    for _ in range(evaluations):
        if is_gone(r):
            high = r
        else:
            low = r
        r = 2 * low if high is None else (low + high) / 2
    return (low, False) if high is None else (high, True)
