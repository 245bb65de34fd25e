"""Samplers by their names in papers, which replace a pipeline's own on the same noise schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...core.errors import require
from ...core.registry import suggest

# All are deterministic once the initial noise is given.
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm": "DPMSolverMultistepScheduler",
}


def named_scheduler(name: str, own: Any) -> Any:
    """A diffusers scheduler of that name with the betas and prediction type of the pipeline's own."""
    import diffusers

    kind = getattr(diffusers, suggest(name, SAMPLERS, "sampler"))
    # By default DDIM clips to [-1, 1]: right for pixels, wrong for latents. Other schedulers' configs lack the option.
    return kind.from_config(own.config, **({"clip_sample": False} if name == "ddim" else {}))


@contextmanager
def sampled_by(pipeline: Any, sampler: str | None, steps: int) -> Iterator[None]:
    """Let a pipeline draw with a named sampler inside the block; None keeps its own.

    `SettingsError` if there are more steps than the model has timesteps.
    """
    own = pipeline.scheduler
    count = own.config.num_train_timesteps
    require(0 < steps <= count, f"{steps} sampler steps: give 1 to {count}, the model's number of timesteps")
    pipeline.scheduler = own if sampler is None else named_scheduler(sampler, own)
    try:
        yield
    finally:
        pipeline.scheduler = own
