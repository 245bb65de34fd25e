"""Samplers by the names papers use, in place of a pipeline's own, on its own noise schedule."""

from typing import Any

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
    # DDIM clips to [-1, 1] unless told: right for pixels, wrong for latents, and a config of another kind does not say.
    return kind.from_config(own.config, **({"clip_sample": False} if name == "ddim" else {}))
