"""Turns stored raw figures into labels and probabilities, so that another policy needs no new pictures.

A head is a list of figures in the order of its labels: log-probabilities of a classifier, or cosines of CLIP, which
`log_softmax` turns into log-probabilities.
"""

from collections.abc import Sequence
from math import exp, log

from ..core.errors import require

_CLIP_SCALE = 100.0  # factor of CLIP's cosines before a softmax: the upper limit of its trained temperature


def argmax(figures: Sequence[float], labels: Sequence[str]) -> str:
    """The label of the largest figure; the first label if several are equal."""
    return top_k(figures, labels, 1)[0]


def top_k(figures: Sequence[float], labels: Sequence[str], k: int) -> list[str]:
    """The labels of the k largest figures, largest first; equal ones in the order of the labels."""
    _check(figures, labels)
    require(1 <= k <= len(labels), f"top {k} of {len(labels)} labels: k must be in 1..{len(labels)}")
    order = sorted(range(len(labels)), key=lambda i: (-figures[i], i))
    return [labels[i] for i in order[:k]]


def probability(log_probabilities: Sequence[float], labels: Sequence[str], wanted: Sequence[str]) -> float:
    """The summed probability of the wanted labels, in [0, 1]."""
    _check(log_probabilities, labels)
    unknown = sorted({*wanted} - {*labels})
    require(
        not unknown,
        f"unknown label {unknown[:1]}: the head has {', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}",
    )
    return min(1.0, sum(exp(value) for value, label in zip(log_probabilities, labels, strict=True) if label in wanted))


def largest_share(
    shares: Sequence[Sequence[float]], labels: Sequence[str], shown: float, nothing: str, least: float = 0.5
) -> str:
    """The label with the largest share; `nothing` if less than `least` of probability says that anything is shown.

    `shares` are (number of a label, share), largest first. A row keeps only a few of them.
    """
    return nothing if shown < least or not shares else labels[int(shares[0][0])]


def share_of(shares: Sequence[Sequence[float]], labels: Sequence[str], wanted: Sequence[str]) -> float:
    """The summed share of the wanted labels among those that a row keeps, in [0, 1]."""
    return sum(share for number, share in shares if labels[int(number)] in wanted)


def ordered_pair(
    shares: Sequence[Sequence[float]], places: Sequence[float], labels: Sequence[str], least: float = 0.05
) -> tuple[str, ...]:
    """The labels of the two largest shares, by their places from left to right or from top to bottom.

    `places[i]` belongs to `shares[i]`. Only one label if the second share is less than `least`.
    """
    first = [i for i, (_, share) in enumerate(shares[:2]) if share >= least]
    return tuple(labels[int(shares[i][0])] for i in sorted(first, key=lambda i: places[i]))


def log_softmax(cosines: Sequence[float], scale: float = _CLIP_SCALE) -> list[float]:
    """Log-probabilities of scaled cosines. Their `probability` is MACE's "CLIP accuracy" of one picture."""
    scaled = [scale * value for value in cosines]
    top = max(scaled)
    total = top + log(sum(exp(value - top) for value in scaled))
    return [value - total for value in scaled]


def clip_score(cosine: float, weight: float = 100.0) -> float:
    """weight * max(cosine, 0), with weight 100 in torchmetrics, 2.5 in Hessel et al. 2021 and SPM, 1 in ACE."""
    return weight * max(cosine, 0.0)


def _check(figures: Sequence[float], labels: Sequence[str]) -> None:
    require(
        len(figures) == len(labels), f"{len(figures)} figures for {len(labels)} labels: give the labels of this head"
    )
