"""Noisy gradient descent on a linear model, where its bounds hold: a curator who learns, and forgets on request."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import DataError, require
from ...metrics.deletion_privacy import NoisyDescent

_LONGEST = 1 + 1e-6  # of a record's features


@dataclass(frozen=True)
class NoisyLinear:
    """Learns theta (d, k) from features x (n, d) of at most length 1 and answers y (n, k) by full-batch noisy steps.

    A record's loss is |x theta - y|^2 / 2, its gradient clipped to the length L: that is the gradient of Huber's loss,
    which is convex and as smooth. Nothing but theta is kept, and noise is fresh at every call: pass a generator that
    was not seeded before, or no bound holds.
    """

    clip: float = 1.0
    """L, the longest gradient of a record."""
    lamb: float = 0.05
    """Weight of |theta|^2 / 2."""
    sigma: float = 0.01
    """Scale of the noise, whose deviation in a step is sqrt(2 eta) sigma."""
    eta: float = 0.9
    """Step."""

    def bounds(self, records: int) -> NoisyDescent:
        """Return what can be said for so many records. Raises `SettingsError` where nothing can."""
        return NoisyDescent(records, self.clip, 1.0, self.lamb, self.eta, self.sigma)

    def learn(self, x: Tensor, y: Tensor, steps: int, rng: torch.Generator) -> Tensor:
        """Return theta after `steps` from 0."""
        return self.go_on(torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype), x, y, steps, rng)

    def go_on(self, theta: Tensor, x: Tensor, y: Tensor, steps: int, rng: torch.Generator) -> Tensor:
        """Return theta after `steps` more, on records of which some were replaced since: they are forgotten."""
        self.bounds(len(x))
        lengths = x.norm(dim=1, keepdim=True)
        message = f"a record's features must be at most 1 long, got {float(lengths.max()):.3g}: scale all by one factor"
        require(float(lengths.max()) <= _LONGEST, message, DataError)
        for _ in range(steps):
            gap = x @ theta - y
            long = (gap.norm(dim=1, keepdim=True) * lengths).clamp(min=1e-30)
            gradient = x.T @ (gap * (self.clip / long).clamp(max=1.0)) / len(x) + self.lamb * theta
            noise = torch.randn(theta.shape, generator=rng, dtype=theta.dtype)
            theta = theta - self.eta * gradient + (2 * self.eta) ** 0.5 * self.sigma * noise
        return theta
