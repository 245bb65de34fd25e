"""Accuracies over a grid of models and receivers: UnlearnCanvas' UA, IRA, CRA, and the curves of continual unlearning.

UnlearnCanvas: NeurIPS 2024, arXiv:2402.11846. Curves: Continual Unlearning for Text-to-Image Diffusion Models, ICLR
2026, arXiv:2511.07970. A receiver is a concept on which a model is measured. IRA averages over all other concepts of
the domain, including erased ones, and RA-I only over a held-out retain list, so they cannot be compared. A missing cell
is an error, because leaving it out would change the mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..core.errors import DataError, require
from .harmonic import harmonic_mean

_ModelKey = TypeVar("_ModelKey", str, int)  # a model's key is its target, or the number of requests done
_UNLEARNCANVAS_SIZES = {"style": 51, "object": 20}  # receivers; one of the styles is never a target


@dataclass(frozen=True)
class GridRow:
    """Efficacy and specificity of one erased target under the paper's names, in [0, 1], averaged over receivers."""

    target: str
    domain: str
    ua: float  # 1 - accuracy on the target
    ira: float  # mean accuracy on the other receivers of its domain
    cra: float  # mean accuracy on the receivers of the other domains
    n_ira: int
    n_cra: int


def grid_accuracies(
    hits: Iterable[tuple[_ModelKey, str, bool]], pictures: Mapping[str, int]
) -> dict[tuple[_ModelKey, str], float]:
    """{(model, receiver): share of pictures that the judge labels correctly}.

    `pictures` is the required number of pictures of each receiver.
    """
    found: dict[tuple[_ModelKey, str], list[int]] = {}
    for model, receiver, hit in hits:
        cell = found.setdefault((model, receiver), [0, 0])
        cell[0] += hit
        cell[1] += 1
    for (model, receiver), (_, count) in found.items():
        require(
            receiver in pictures,
            f"receiver {receiver!r} is unknown: known are {', '.join(sorted(pictures)[:12])}",
            DataError,
        )
        message = (
            f"model {model!r}, receiver {receiver!r}: {count} pictures judged, {pictures[receiver]} expected: draw and"
            " judge them all"
        )
        require(count == pictures[receiver], message, DataError)
    return {cell: right / count for cell, (right, count) in found.items()}


def grid_rows(
    acc: Mapping[tuple[str, str], float], targets: Sequence[str], domains: Mapping[str, Sequence[str]]
) -> list[GridRow]:
    """One row for each target, from acc[model, receiver]; the model that erased a target has its name."""
    return [_row(acc, target, domains) for target in targets]


def _row(acc: Mapping[tuple[str, str], float], target: str, domains: Mapping[str, Sequence[str]]) -> GridRow:
    home = [name for name, receivers in domains.items() if target in receivers]
    require(
        len(home) == 1, f"target {target!r} is in {len(home)} domains: it must be a receiver of exactly one", DataError
    )
    inside = [receiver for receiver in domains[home[0]] if receiver != target]
    across = [receiver for name, receivers in domains.items() if name != home[0] for receiver in receivers]
    return GridRow(
        target,
        home[0],
        1 - _cell(acc, target, target),
        _mean(acc, target, inside),
        _mean(acc, target, across),
        len(inside),
        len(across),
    )


def unlearncanvas_rows(
    acc: Mapping[tuple[str, str], float], styles: Sequence[str], objects: Sequence[str]
) -> list[GridRow]:
    """Rows for the 50 styles and 20 objects of the benchmark, with its denominators checked: 50 and 20, 19 and 51.

    `styles` are all 51 themes; the photographs, "Seed_Images", are a receiver but never a target.
    """
    found = {"style": len({*styles}), "object": len({*objects})}
    require(
        found == _UNLEARNCANVAS_SIZES,
        f"receivers {found}: UnlearnCanvas has {_UNLEARNCANVAS_SIZES}; for another grid call grid_rows",
        DataError,
    )
    require(
        "Seed_Images" in styles,
        "'Seed_Images' is missing from the themes: add it, it is a receiver in UnlearnCanvas",
        DataError,
    )
    targets = [name for name in (*styles, *objects) if name != "Seed_Images"]
    return grid_rows(acc, targets, {"style": styles, "object": objects})


def grid_means(rows: Sequence[GridRow]) -> dict[str, GridRow]:
    """Means over the targets of each domain, as papers print them, with "mean of n" as target."""
    means = {}
    for domain in dict.fromkeys(row.domain for row in rows):
        members = [row for row in rows if row.domain == domain]
        require(
            len({(row.n_ira, row.n_cra) for row in members}) == 1,
            f"rows of domain {domain!r} average over different receivers: compute all rows on one grid",
            DataError,
        )
        n = len(members)
        means[domain] = GridRow(
            f"mean of {n}",
            domain,
            ua=sum(row.ua for row in members) / n,
            ira=sum(row.ira for row in members) / n,
            cra=sum(row.cra for row in members) / n,
            n_ira=members[0].n_ira,
            n_cra=members[0].n_cra,
        )
    return means


@dataclass(frozen=True)
class ContinualStep:
    """Accuracies of the model after k requests. UA covers the targets erased so far; at k = 0 all later targets."""

    k: int
    ua: float
    ra_i: float  # held-out concepts of the targets' domain
    ra_c: float  # concepts of the other domain
    new_ua: float | None  # of request k alone
    backward_ua: float | None  # of the requests before k; a fall is a rebound
    lost_i: float | None  # RA-I of the unedited model minus RA-I; None if step 0 is not measured
    lost_c: float | None

    @property
    def harmonic(self) -> float:
        """H of UA, RA-I and RA-C (inferred: the paper prints curves)."""
        return harmonic_mean(self.ua, self.ra_i, self.ra_c)


def continual_curve(
    acc: Mapping[tuple[int, str], float],
    sequence: Sequence[str],
    inside: Sequence[str],
    across: Sequence[str],
    start: int = 1,
) -> list[ContinualStep]:
    """Compute steps `start` to len(sequence) of a continual-unlearning curve, from acc[k, receiver].

    `inside` and `across` are the held-out retain lists of RA-I and RA-C.
    """
    require(start in (0, 1), f"start {start}: give 0 with the unedited model, 1 without it", DataError)
    both = {*sequence} & {*inside, *across}
    require(
        not both,
        f"{sorted(both)[:3]} are both erased and retained: RA-I and RA-C need concepts that are never erased",
        DataError,
    )
    require(
        bool(sequence) and bool(inside) and bool(across),
        "a curve needs a sequence of targets and two retain lists: one of them is empty",
        DataError,
    )
    steps: list[ContinualStep] = []
    for k in range(start, len(sequence) + 1):
        gone = [1 - _cell(acc, k, target) for target in sequence[:k] or sequence]
        near, far = _mean(acc, k, inside), _mean(acc, k, across)
        base = steps[0] if steps and start == 0 else None
        new, backward = (gone[-1] if k else None), (sum(gone[:-1]) / (k - 1) if k > 1 else None)
        lost = (base.ra_i - near, base.ra_c - far) if base else ((0.0, 0.0) if k == 0 else (None, None))
        steps.append(ContinualStep(k, sum(gone) / len(gone), near, far, new, backward, *lost))
    return steps


def mean_height(values: Sequence[float]) -> float:
    """Mean height of a curve with equal steps, by the trapezoid rule; a single value is its own mean."""
    require(len(values) > 0, "the mean height of a curve needs at least one value", DataError)
    if len(values) == 1:
        return values[0]
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


def _cell(acc: Mapping[tuple[_ModelKey, str], float], model: _ModelKey, receiver: str) -> float:
    require(
        (model, receiver) in acc,
        f"the accuracy of model {model!r} on {receiver!r} is missing: judge all receivers of every model",
        DataError,
    )
    value = acc[model, receiver]
    require(
        0 <= value <= 1,
        f"accuracy {value} of model {model!r} on {receiver!r}: give shares in [0, 1], not percent",
        DataError,
    )
    return value


def _mean(acc: Mapping[tuple[_ModelKey, str], float], model: _ModelKey, receivers: Sequence[str]) -> float:
    require(len(receivers) > 0, f"model {model!r} has no receivers to average over: give at least one", DataError)
    return sum(_cell(acc, model, receiver) for receiver in receivers) / len(receivers)
