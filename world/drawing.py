"""Pictures that a finished pipeline draws: stock pipelines, one seed a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from .artwork import SIZE
from .flow import packed
from .tokenizer import LENGTH

SAMPLERS: dict[str, tuple[type, dict[str, bool]]] = {  # Class, and what its configuration changes.
    "dpm": (DPMSolverMultistepScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # Latents are not bounded.
    "euler": (FlowMatchEulerDiscreteScheduler, {}),
    "stochastic euler": (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
}
DEFAULTS = {StableDiffusionPipeline: ("dpm", "ddim"), FluxPipeline: ("euler", "stochastic euler")}


@dataclass(frozen=True)
class Way:
    """Sampler, steps and guidance."""

    sampler: str
    steps: int = 20
    guidance: float = 4.0


def open_pipeline(folder: Path, device: str) -> StableDiffusionPipeline | FluxPipeline:
    """The pipeline of a folder, whichever it is."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def samplers(pipeline: StableDiffusionPipeline | FluxPipeline) -> tuple[str, str]:
    """The two samplers that a pipeline is measured with; the first one is its own."""
    return DEFAULTS[type(pipeline)]


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Initial noise, a row a seed."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw(
    pipeline: StableDiffusionPipeline | FluxPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    way: Way,
    at_once: int = 50,
) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1] on the CPU."""
    kind, changes = SAMPLERS[way.sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **changes)
    channels = pipeline.vae.config.latent_channels
    side = SIZE // 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    pictures = []
    for start in range(0, len(texts), at_once):
        some = list(texts[start : start + at_once])
        some_seeds = seeds[start : start + at_once]
        z = noise(some_seeds, (channels, side, side)).to(pipeline.device)
        asked = {"num_inference_steps": way.steps, "output_type": "pt", "return_dict": False}
        if isinstance(pipeline, FluxPipeline):
            asked |= {"negative_prompt": [""] * len(some), "true_cfg_scale": way.guidance, "latents": packed(z)}
            asked |= {"height": SIZE, "width": SIZE, "max_sequence_length": LENGTH}
        else:
            asked |= {"guidance_scale": way.guidance, "latents": z}
        if way.sampler.startswith("stochastic"):  # The scheduler asks the global generator.
            torch.manual_seed(some_seeds[0])
        pictures.append(pipeline(some, **asked)[0].cpu())
    return torch.cat(pictures)
