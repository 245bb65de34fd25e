"""Bounds of what a model that forgot records still says of them: noisy gradient descent, arXiv:2210.08911.

The constants are derived here, because those of the paper's theorems were not at hand. A step maps theta to
theta - eta gradient + noise of deviation s = sqrt(2 eta) sigma in every direction. Where the loss is the mean of n
convex losses whose gradients are at most L long and beta-Lipschitz, plus (lamb / 2) |theta|^2, and
eta <= 2 / (beta + 2 lamb), the map without noise is a contraction by c = 1 - eta lamb. Replacing one record moves it by
at most d = 2 eta L / n. Two chains z apart that follow one map for K steps are then, in Renyi divergence of order q, at
most q z^2 c^(2K) / (2 s^2 (1 + c^2 + ... + c^(2K - 2))) apart (amplification by iteration, Feldman et al. 2018), with
equality where every step contracts by c exactly.
"""

from dataclasses import dataclass
from math import exp, inf, log, sqrt

from ..core.errors import SettingsError, require

_ORDERS = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True)
class NoisyDescent:
    """Settings of noisy gradient descent on n records, for which the bounds hold."""

    records: int
    clip: float  # L
    smoothness: float  # beta, of every record's loss
    lamb: float
    eta: float
    sigma: float

    def __post_init__(self) -> None:
        require(self.records > 0 and self.clip > 0 and self.smoothness > 0, "records, clip and smoothness must be > 0")
        require(
            self.lamb > 0,
            f"lamb must be > 0, got {self.lamb}: without it nothing is forgotten at a known rate, and no bound holds",
            SettingsError,
        )
        highest = 2 / (self.smoothness + 2 * self.lamb)
        require(
            0 < self.eta <= highest,
            f"eta must be above 0 and at most 2 / (beta + 2 lamb) = {highest:.3g}, got {self.eta}: a longer step is no"
            " contraction",
            SettingsError,
        )
        require(self.sigma >= 0, f"sigma must be >= 0, got {self.sigma}")

    @property
    def contraction(self) -> float:
        """c, by which a step without noise draws two points together."""
        return 1 - self.eta * self.lamb

    def drift(self, steps: int) -> float:
        """How far one record can move the weights within so many steps from one start."""
        return 2 * self.eta * self.clip / self.records * _powers(self.contraction, steps)

    def divergence(self, order: float, start: float, steps: int) -> float:
        """Bound the Renyi divergence of two chains after `steps` on the same records, `start` apart at first."""
        if start == 0:
            return 0.0
        variance = 2 * self.eta * self.sigma**2 * _powers(self.contraction**2, steps)
        return inf if variance == 0 else order * (start * self.contraction**steps) ** 2 / (2 * variance)

    def learning_divergence(self, order: float, steps: int) -> float:
        """Bound the divergence of what was learned in `steps` from data that differ in one record.

        All that a record adds, at every step, is drawn out at once by the noise of the steps.
        """
        variance = 2 * self.eta * self.sigma**2 * _powers(self.contraction**2, steps)
        return inf if variance == 0 else order * self.drift(steps) ** 2 / (2 * variance)

    def deletion_epsilon(self, learn_steps: int, unlearn_steps: int, delta: float) -> float:
        """Bound epsilon of deletion privacy of one record that was chosen without a look at any release."""
        start = self.drift(learn_steps)
        return renyi_epsilon({q: self.divergence(q, start, unlearn_steps) for q in _ORDERS}, delta)

    def learning_epsilon(self, learn_steps: int, delta: float) -> float:
        """Bound epsilon of the differential privacy of one release."""
        return renyi_epsilon({q: self.learning_divergence(q, learn_steps) for q in _ORDERS}, delta)


def _powers(base: float, count: int) -> float:
    """1 + base + ... + base^(count - 1)."""
    return float(count) if base == 1 else (1 - base**count) / (1 - base)


def renyi_epsilon(divergences: dict[float, float], delta: float) -> float:
    """Return the smallest epsilon at this delta that Renyi divergences by order give."""
    require(0 < delta < 1, f"delta must be above 0 and below 1, got {delta}")
    return min(divergence + log(1 / delta) / (order - 1) for order, divergence in divergences.items())


def adaptive_epsilon(deletion: float, learning: float, delta: float, releases: int) -> tuple[float, float]:
    """Return (epsilon, delta) against requesters who saw so many releases (the paper's reduction)."""
    grown = deletion + releases * learning * (exp(learning) - 1) + learning * sqrt(2 * releases * log(1 / delta))
    return grown, (releases + 2) * delta


def attack_advantage(epsilon: float, delta: float) -> float:
    """Bound the advantage of an attacker who sees all models after the deletion (the paper's soundness)."""
    return exp(epsilon) - 1 + 2 * delta


def least_epsilon(learning_advantage: float, deletion_advantage: float, delta: float) -> float:
    """Return the epsilon below which none is possible against requesters who saw one release.

    Given are the advantages of membership tests on what was learned and on what the deletion left.
    """
    return log(1 + learning_advantage * deletion_advantage - 2 * delta)
