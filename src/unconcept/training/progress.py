"""Where on the way from noise to picture a step of training is: one variable, and what each family of papers calls it.

Progress p = steps done / N: 0 is pure noise, 1 the picture. At p the latents have seen p N steps of the sampler, and
the model is asked of them at a timestep near T (1 - p).
"""

from fractions import Fraction

import torch

from ..core.errors import require


def progress_from_done(k: int, steps: int) -> Fraction:
    """k steps done of N (SPM, ACE, KSCU, ANT for several concepts, ESD's present code)."""
    require(0 <= k <= steps, f"{k} of {steps} steps cannot be done")
    return Fraction(k, steps)


def progress_from_remaining(j: int, steps: int) -> Fraction:
    """j steps left of N (ESD's first code, Receler, AdvUnlearn, ANT for one concept): small is nearly clean."""
    return 1 - progress_from_done(j, steps)


def steps_done(p: Fraction, steps: int) -> int:
    """How many of N steps: the last of the grid's that is not beyond p."""
    return int(p * steps)


def step_timesteps(p: Fraction, steps: int, timesteps: int = 1000) -> range:
    """The timesteps of the step that follows: one N-th of all T, which the grid's own timestep at p is in.

    Differs: ESD's first code numbers the bins by steps left, [T j / N, T (j + 1) / N), one bin noisier than its latents
    are.
    """
    left = steps - steps_done(p, steps)
    require(left > 0, "after the last step there is no timestep left")
    return range(round(timesteps * (left - 1) / steps), round(timesteps * left / steps))


def training_timestep(p: Fraction, timesteps: int = 1000) -> int:
    """Entry T p of the training timesteps, counted from the noisiest (SPM, ACE, ANT for several concepts)."""
    return timesteps - 1 - min(int(timesteps * p), timesteps - 1)


def sample_progress(lowest: int, steps: int, rng: torch.Generator) -> Fraction:
    """Progress at a uniform number of steps done, from `lowest` to N - 1."""
    require(0 <= lowest < steps, f"no step can be drawn between {lowest} and {steps - 1}")
    return progress_from_done(int(torch.randint(lowest, steps, (), generator=rng)), steps)
