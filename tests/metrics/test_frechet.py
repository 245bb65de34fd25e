"""Set distances against closed forms, literal loops and a second derivation."""

import math

import pytest
import torch

from unconcept.core.errors import NumericsError, SettingsError
from unconcept.metrics.frechet import Gaussian, cubic_mmd, frechet, gaussian_mmd, metric_name


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + shift


def fid(a: torch.Tensor, b: torch.Tensor, singular: bool = False) -> float:
    return frechet(Gaussian.of(a), Gaussian.of(b), singular)


def test_frechet_of_two_gaussians_is_the_closed_form() -> None:
    """With commuting covariances the root is taken eigenvalue by eigenvalue."""
    basis = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    left, right = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2, 3, 4, 5], [2.0, 2, 0.5, 9, 1]))
    mean = torch.arange(5, dtype=torch.float64)
    a = Gaussian(mean, basis * left @ basis.T, 100)
    b = Gaussian(mean + 0.5, basis * right @ basis.T, 100)
    assert frechet(a, b) == pytest.approx(5 * 0.25 + float((left.sqrt() - right.sqrt()).square().sum()), abs=1e-12)


def test_frechet_against_the_unsymmetric_root() -> None:
    """The textbook form: eigenvalues of the product A B, which is not symmetric."""
    a, b = rows(200, 12, 0), rows(150, 12, 1, 0.3)
    product = torch.linalg.eigvals(a.T.cov() @ b.T.cov())
    slow = (
        (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * product.sqrt().real.sum()
    )
    assert fid(a, b) == pytest.approx(float(slow), rel=1e-10)


def test_frechet_without_full_rank_against_the_pictures_own_products() -> None:
    """Tr (A B)^(1/2) is the sum of singular values of the centred features' products, n x m: no root is taken."""
    a, b = rows(20, 40, 0), rows(30, 40, 1, 0.3)
    with pytest.raises(SettingsError, match="singular covariance"):
        fid(a, b)
    left, right = ((side - side.mean(0)) / math.sqrt(len(side) - 1) for side in (a, b))
    slow = (
        (a.mean(0) - b.mean(0)).square().sum()
        + left.square().sum()
        + right.square().sum()
        - 2 * torch.linalg.svdvals(left @ right.T).sum()
    )
    assert fid(a, b, singular=True) == pytest.approx(float(slow), rel=1e-6)


def test_frechet_of_equal_sets_is_exactly_zero_and_it_is_symmetric() -> None:
    a, b = rows(60, 8, 0), rows(60, 8, 1)
    assert fid(a, a.clone()) == 0.0
    assert 0 <= fid(a, a[torch.randperm(60)]) < 1e-6
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-10)


def test_frechet_is_biased_in_n() -> None:
    """Two samples of one source: smaller ones lie further apart."""
    small, large = fid(rows(30, 8, 0), rows(30, 8, 1)), fid(rows(3000, 8, 0), rows(3000, 8, 1))
    assert small > 10 * large


def test_a_moved_set_is_further_away() -> None:
    a = rows(80, 8, 0)
    assert fid(a, a + 1) == pytest.approx(8, rel=1e-9)
    for distance in (fid, gaussian_mmd, lambda x, y: cubic_mmd(x, y, 80, 1).mean):
        assert distance(a, rows(80, 8, 1, 3.0)) > 5 * abs(distance(a, rows(80, 8, 1)))


def test_cubic_mmd_against_a_double_loop() -> None:
    a, b = rows(7, 4, 0), rows(7, 4, 1, 0.5)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    n = range(7)
    within = sum(k(side[i], side[j]) for side in (a, b) for i in n for j in n if i != j) / (7 * 6)
    across = sum(k(x, y) for x in a for y in b) / 49
    found = cubic_mmd(a, b, size=7, draws=3)
    assert found.mean == pytest.approx(within - 2 * across, rel=1e-10)
    assert found.sd == pytest.approx(0, abs=1e-10)
    assert (found.draws, found.n) == (3, 7)


def test_pairs_against_a_double_loop() -> None:
    """Gretton et al. 2012, Eq. 3 with h over pairs (x_i, y_i)."""
    a = rows(7, 4, 0)
    b = a + 0.3 * rows(7, 4, 1)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    h = (
        sum(k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i in range(7) for j in range(7) if i != j)
        / 42
    )
    assert cubic_mmd(a, b, 7, 1, paired=True).mean == pytest.approx(h, rel=1e-9)
    assert cubic_mmd(a, a.clone(), 5, 4, paired=True).mean == 0.0
    assert cubic_mmd(a, a.clone(), 7, 1).mean < -1e-3


def test_pairs_of_one_source_give_zero_on_average() -> None:
    """b is a with as much fresh noise as leaves its distribution: only the pairwise form is right about it."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(200):
        rng = torch.Generator().manual_seed(seed)
        a, fresh = torch.randn(2, 30, 4, generator=rng, dtype=torch.float64)
        for paired, values in found.items():
            values.append(cubic_mmd(a, 0.8 * a + 0.6 * fresh, 30, 1, paired=paired).mean)
    means = {paired: sum(values) / 200 for paired, values in found.items()}
    errors = {
        paired: math.sqrt(sum((v - means[paired]) ** 2 for v in values)) / 200 for paired, values in found.items()
    }
    assert abs(means[True]) < 3 * errors[True]
    assert means[False] < -3 * errors[False]


def test_cubic_mmd_is_unbiased() -> None:
    """Splits of one source give 0 on average, and both signs."""
    values = [cubic_mmd(rows(40, 4, seed), rows(40, 4, 1000 + seed), 40, 1).mean for seed in range(200)]
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / len(values))
    assert abs(mean) < 3 * error
    assert min(values) < 0 < max(values)


def test_cubic_mmd_subsets_are_reproducible() -> None:
    a, b = rows(50, 4, 0), rows(60, 4, 1)
    assert cubic_mmd(a, b, 20, 5, seed=1) == cubic_mmd(a, b, 20, 5, seed=1)
    assert cubic_mmd(a, b, 20, 5, seed=1) != cubic_mmd(a, b, 20, 5, seed=2)
    assert cubic_mmd(a, b, 20, 5).sd > 0


def test_gaussian_mmd_against_a_double_loop() -> None:
    a, b = rows(6, 5, 0), rows(9, 5, 1, 0.5)

    def mean(xs: torch.Tensor, ys: torch.Tensor) -> float:
        return sum(math.exp(-float((x / x.norm() - y / y.norm()).square().sum()) / 200) for x in xs for y in ys) / (
            len(xs) * len(ys)
        )

    assert gaussian_mmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-9)
    assert gaussian_mmd(a, a.clone()) == 0.0
    assert gaussian_mmd(a, b) == pytest.approx(gaussian_mmd(b, a), rel=1e-9)


def test_float32_features_are_widened() -> None:
    a, b = rows(60, 8, 0) + 1000, rows(60, 8, 1) + 1000
    assert fid(a.float(), b.float()) == pytest.approx(fid(a, b), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Gaussian.of(torch.ones(1, 3)), "1 pictures are too few"),
        (lambda: cubic_mmd(torch.ones(9, 3), torch.ones(20, 3), 10), "9 pictures are too few for subsets of 10"),
        (lambda: gaussian_mmd(torch.ones(1, 3), torch.ones(5, 3)), "1 pictures are too few"),
        (lambda: cubic_mmd(torch.ones(5, 3), torch.ones(6, 3), 5, paired=True), "cannot be paired"),
        (lambda: gaussian_mmd(torch.ones(4, 3), torch.ones(4, 5)), "one extractor"),
        (lambda: gaussian_mmd(torch.ones(4, 3, 2), torch.ones(4, 3, 2)), "give \\(n, d\\)"),
        (lambda: frechet(Gaussian.of(rows(9, 3, 0)), Gaussian.of(rows(9, 4, 0))), "one extractor"),
    ],
)
def test_sets_that_are_refused(call, match) -> None:
    with pytest.raises(SettingsError, match=match):
        call()


def test_broken_features_are_refused() -> None:
    with pytest.raises(NumericsError, match="NaN"):
        gaussian_mmd(torch.full((4, 3), float("nan")), torch.ones(4, 3))


def test_the_name_carries_the_extractor() -> None:
    assert metric_name("frechet", "moji-judge") == "frechet@moji-judge"
