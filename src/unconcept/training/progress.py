"""Sampling progress of the latents of a training step: one variable, with conversions to each paper's convention.

Progress p = steps done / N: 0 is pure noise, 1 the image. At p the latents have gone through p N steps of the sampler,
and the model predicts at a timestep near T (1 - p).
"""

from fractions import Fraction

import torch

from ..core.errors import require


def progress_from_done(k: int, steps: int) -> Fraction:
    """Return the progress after k of N steps (SPM, ACE, KSCU, ANT for several concepts, ESD's present code)."""
    require(0 <= k <= steps, f"{k} steps done of {steps} are impossible: give 0 to {steps}")
    return Fraction(k, steps)


def progress_from_remaining(j: int, steps: int) -> Fraction:
    """Return the progress with j of N steps left (ESD's first code, Receler, AdvUnlearn, ANT for one concept).

    A small j means nearly clean latents.
    """
    return 1 - progress_from_done(j, steps)


def steps_done(p: Fraction, steps: int) -> int:
    """Return how many of N steps are done at p, rounded down to the grid."""
    return int(p * steps)


def step_timesteps(p: Fraction, steps: int, timesteps: int = 1000) -> range:
    """Return the timesteps of the next step: one N-th of all T, which contains the grid's own timestep at p.

    Differs: ESD's first code numbers the bins by steps left, [T j / N, T (j + 1) / N), one bin noisier than its latents
    are.
    """
    left = steps - steps_done(p, steps)
    require(left > 0, f"progress {p} is after the last of {steps} steps and has no timesteps: give less than 1")
    return range(round(timesteps * (left - 1) / steps), round(timesteps * left / steps))


def training_timestep(p: Fraction, timesteps: int = 1000) -> int:
    """Return entry T p of the training timesteps, counted from the noisiest (SPM, ACE, ANT for several concepts)."""
    return timesteps - 1 - min(int(timesteps * p), timesteps - 1)


def sample_progress(lowest: int, steps: int, rng: torch.Generator) -> Fraction:
    """Draw the progress at a uniform number of steps done, from `lowest` to N - 1."""
    require(0 <= lowest < steps, f"the lowest step {lowest} must be 0 to {steps - 1}")
    return progress_from_done(int(torch.randint(lowest, steps, (), generator=rng)), steps)
