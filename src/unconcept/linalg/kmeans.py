"""Cluster centres by Lloyd's iterations."""

from torch import Tensor, cdist

_MOST_ITERATIONS = 1000  # not reached in practice: the sum of squared distances falls at every step


def kmeans_centres(rows: Tensor, start: Tensor, tolerance: float) -> Tensor:
    """Compute centres (k, d) of rows (n, d), starting from `start` (k, d).

    Stops when the squared sum of the centres' shifts is below `tolerance`. A centre that is nearest to no row does not
    move.
    """
    found = start.clone()
    for _ in range(_MOST_ITERATIONS):
        nearest = cdist(rows, found, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        before = found.clone()
        for i in range(len(found)):
            if (nearest == i).any():
                found[i] = rows[nearest == i].mean(0)
        if float((found - before).norm(dim=1).sum()) ** 2 < tolerance:
            break
    return found
