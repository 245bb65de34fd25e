"""Where two texts that differ in one place say the same: positions paired from the front and from the back."""

from collections.abc import Sequence


def shared_positions(first: Sequence[int], second: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Positions, in each of two rows of token ids (start and end token included), of what stands in both.

    The common beginning, the common end, and as many pads after it as both have once padded to `length`.
    """
    shorter, longer = sorted((len(first), len(second)))
    front = 0
    while front < shorter and first[front] == second[front]:
        front += 1
    back = 0
    while back < shorter - front and first[-1 - back] == second[-1 - back]:
        back += 1
    pads = length - longer
    one, two = ([*range(front), *range(len(ids) - back, len(ids) + pads)] for ids in (first, second))
    return one, two
