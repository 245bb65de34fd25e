"""Draws pictures of prompts. The noise of a picture comes from its own seed on the CPU, so that neither the device nor
the other prompts of a batch change it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from ..core.errors import require
from ..core.registry import suggest
from ..models import ModelView
from ..models.diffusion.callbacks import count_pictures
from ..models.diffusion.few_step import few_step_record
from ..models.model_view import SamplingStart
from ..prompts.checks import Prompt
from ..prompts.safety import require_drawable
from ..worlds.registry import embedded_world, split_config

StartMaker = Callable[[Tensor], Tensor | SamplingStart]  # from initial noise (b, c, h, w)
USUAL_GUIDANCE = 7.5  # the default of diffusers


@dataclass(frozen=True)
class DrawSpec:
    """Sampler settings. The batch size changes pictures by rounding only, so it is not part of their keys."""

    steps: int = 20
    """Sampler steps."""
    guidance_scale: float = 4.0
    """Guidance scale; 4 is the default of `moji`, other models use 7.5."""
    batch_size: int = 24
    """Pictures drawn at once."""
    sampler: str | None = None
    """Name of the sampler; None for the model's own."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps {self.steps}: give a whole number from 1")
        require(isfinite(self.guidance_scale), f"guidance scale {self.guidance_scale}: give a number, such as 4")

    def of(self, prompt: Prompt) -> "DrawSpec":
        """The same settings with the prompt's own guidance scale, if it has one."""
        return self if prompt.guidance_scale is None else replace(self, guidance_scale=prompt.guidance_scale)


DRAW_SPECS = {  # Sampler settings of published protocols, by name.
    "esd100": DrawSpec(100, 7.5, sampler="lms"),  # (inferred): the paper gives only the steps
    "mace-ddim50": DrawSpec(50, 7.5, sampler="ddim"),
    "speed-dpm20": DrawSpec(20, 7.5, sampler="dpm"),
    "unlearncanvas-lms100": DrawSpec(100, 9.0, sampler="lms"),
    "hub50": DrawSpec(50, 7.5),
}


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Initial noise (c, h, w) of unit variance, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def require_text_length(model: ModelView, texts: Sequence[str]) -> None:
    """Raise `RequestError` if a text is too long for a text encoder; the stock pipelines of SD 1.x, 2.x and SDXL would
    cut it silently.
    """
    for tokenizer in model.tokenizers:
        tokenizer(texts)


def count_too_long(model: ModelView, texts: Iterable[str]) -> int:
    """Count the texts that are too long for a text encoder."""
    return sum(not _fits(model, text) for text in texts)


def long_prompts_note(model: ModelView, texts: Iterable[str]) -> dict[str, str]:
    """Make a note about prompts that are too long for the text encoders.

    The stock pipelines of SD 1.x, 2.x and SDXL cut long published prompts, and so they did for the papers. SD3 and FLUX
    get finished text states: there `RequestError` is raised.
    """
    asked = list(dict.fromkeys(texts))
    if not model.spec.cuts_prompts:
        require_text_length(model, asked)
    count = count_too_long(model, asked)
    if not count:
        return {}
    held = min(tokenizer.length for tokenizer in model.tokenizers)
    told = f"{count} of {len(asked)} prompts are longer than the {held} tokens of the text encoder and were cut by"
    return {"prompts": f"{told} the pipeline"}


def _fits(model: ModelView, text: str) -> bool:
    return all(tokenizer.can_hold(text) for tokenizer in model.tokenizers)


def draw_prompts(
    model: ModelView,
    prompts: Sequence[Prompt],
    spec: DrawSpec,
    tick: Callable[[float], None] = lambda pictures: None,
    start: StartMaker = lambda noise: noise,
) -> Tensor:
    """Draw pictures (n, 3, h, w) in [0, 1]; calls `tick` after each step with the share of pictures that it is.

    `start` makes each batch's start from its noise. Raises `RequestError` for a prompt that is never drawn.
    """
    require_drawable(prompt.text for prompt in prompts)
    pictures = []
    for first in range(0, len(prompts), spec.batch_size):
        chunk = prompts[first : first + spec.batch_size]
        with count_pictures(model.modules("denoiser"), len(chunk), tick):
            pictures.append(_draw_at_once(model, chunk, spec, start))
    return torch.cat(pictures)


def _draw_at_once(model: ModelView, prompts: Sequence[Prompt], spec: DrawSpec, start: StartMaker) -> Tensor:
    """Draw a batch; if memory is too small, draw its halves. The pictures are the same, since they are independent."""
    begin = start(torch.stack([initial_noise(prompt.seed, model.latent_shape) for prompt in prompts]))
    try:
        return model.sample([prompt.text for prompt in prompts], begin, spec.steps, spec.guidance_scale, spec.sampler)
    except RuntimeError as error:
        if len(prompts) == 1 or not should_reduce_batch_size(error):
            raise
    middle = len(prompts) // 2
    return torch.cat([_draw_at_once(model, part, spec, start) for part in (prompts[:middle], prompts[middle:])])


def spec_named(name: str | None, model: str, batch_size: int) -> DrawSpec:
    """Sampler settings of a published protocol by name; without a name the model's default."""
    if name is None:
        return spec_for(model, batch_size=batch_size)
    return replace(suggest(name, DRAW_SPECS, "spec"), batch_size=batch_size)


def spec_for(
    model: str, steps: int | None = None, guidance_scale: float | None = None, batch_size: int = 24
) -> DrawSpec:
    """Default sampler settings of a model; explicit steps and guidance scale override them.

    Those of a model of few steps, in a folder, are the most steps of its record, and no guidance if it takes none.
    """
    world = embedded_world(model)
    if world is None:
        record = few_step_record(Path(split_config(model)[0]))
        most = DrawSpec.steps if record is None else max(record.timesteps)
        scale = 1.0 if record is not None and record.guidance == "none" else USUAL_GUIDANCE
        usual = DrawSpec(most, scale, batch_size)
    else:
        usual = DrawSpec(world.steps, world.guidance_scale, batch_size, world.sampler)
    if steps is not None:
        usual = replace(usual, steps=steps)
    return usual if guidance_scale is None else replace(usual, guidance_scale=guidance_scale)
