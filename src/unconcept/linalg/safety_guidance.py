"""Safe Latent Diffusion's guidance away from a concept: a gated direction with momentum, element by element."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SafetyGate:
    """The numbers of the term: s_S, lambda, s_m and beta."""

    guidance_scale: float
    """s_S: the gate is min(1, s_S |e_p - e_S|)."""
    threshold: float
    """lambda: the gate is 0 where e_p - e_S, with its sign, is not below it."""
    momentum_scale: float
    """s_m: weight of the momentum in the term."""
    momentum_beta: float
    """beta: share of the old momentum that is kept."""


def safety_term(
    from_concept: Tensor, towards_concept: Tensor, momentum: Tensor, gate: SafetyGate
) -> tuple[Tensor, Tensor]:
    """Return gamma, which is subtracted from the direction of guidance, and the momentum after it.

    e_p, e_S and e_0 are noise predictions under prompt, concept and nothing. `from_concept` is e_p - e_S,
    `towards_concept` is e_S - e_0; gamma = mu (e_S - e_0) + s_m nu, nu' = beta nu + (1 - beta) gamma.
    """
    scale = (gate.guidance_scale * from_concept.abs()).clamp(max=1)
    mu = torch.where(from_concept < gate.threshold, scale, torch.zeros_like(scale))
    gamma = mu * towards_concept + gate.momentum_scale * momentum
    return gamma, gate.momentum_beta * momentum + (1 - gate.momentum_beta) * gamma
