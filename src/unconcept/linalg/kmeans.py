"""Cluster centres by Lloyd's iterations."""

from torch import Tensor, cdist

_MOST_ITERATIONS = 1000  # never reached in practice: the sum of squared distances falls at every step


def kmeans_centres(rows: Tensor, start: Tensor, tolerance: float) -> Tensor:
    """Centres (k, d) of rows (n, d), from `start` (k, d) until the squared sum of the centres' shifts is below
    `tolerance`.

    A centre that no row is nearest to stays where it is.
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
