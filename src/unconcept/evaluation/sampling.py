"""Draw prompts. The noise of a picture comes from its own seed, on the CPU: neither device nor neighbours matter."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from ..core.errors import require
from ..core.registry import suggest
from ..models import ModelView
from ..prompts.checks import Prompt
from ..worlds.registry import embedded_world

USUAL_GUIDANCE = 7.5  # diffusers' own


@dataclass(frozen=True)
class DrawSpec:
    """How pictures are drawn. The batch size changes them by rounding at most, so it is no part of their keys."""

    steps: int = 20
    """Of the sampler."""
    guidance_scale: float = 4.0
    """Moji's own; 7.5 on other models."""
    batch_size: int = 24
    """Pictures drawn at once."""
    sampler: str | None = None
    """The model's own."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps {self.steps}: give a whole number from 1")
        require(isfinite(self.guidance_scale), f"guidance scale {self.guidance_scale}: give a number, such as 4")

    def of(self, prompt: Prompt) -> "DrawSpec":
        """With the guidance that a prompt brings along, if it does."""
        return self if prompt.guidance_scale is None else replace(self, guidance_scale=prompt.guidance_scale)


DRAW_SPECS = {  # How papers draw, by the name of the protocol.
    "esd100": DrawSpec(100, 7.5, sampler="lms"),  # (inferred): the paper gives the steps alone
    "mace-ddim50": DrawSpec(50, 7.5, sampler="ddim"),
    "speed-dpm20": DrawSpec(20, 7.5, sampler="dpm"),
    "unlearncanvas-lms100": DrawSpec(100, 9.0, sampler="lms"),
    "hub50": DrawSpec(50, 7.5),
}


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Initial noise (c, h, w) of unit variance, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def require_text_length(model: ModelView, texts: Sequence[str]) -> None:
    """`RequestError` if a text encoder cannot hold one of the texts: the stock pipelines of SD 1.x, 2.x and SDXL would
    cut it.
    """
    for tokenizer in model.tokenizers:
        tokenizer(texts)


def count_too_long(model: ModelView, texts: Iterable[str]) -> int:
    """How many of the texts a text encoder cannot hold."""
    return sum(not _fits(model, text) for text in texts)


def _fits(model: ModelView, text: str) -> bool:
    return all(tokenizer.can_hold(text) for tokenizer in model.tokenizers)


def draw_prompts(
    model: ModelView, prompts: Sequence[Prompt], spec: DrawSpec, tick: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1]; `tick` is told how many were just finished."""
    pictures = []
    for start in range(0, len(prompts), spec.batch_size):
        chunk = prompts[start : start + spec.batch_size]
        pictures.append(_draw_at_once(model, chunk, spec))
        tick(len(chunk))
    return torch.cat(pictures)


def _draw_at_once(model: ModelView, prompts: Sequence[Prompt], spec: DrawSpec) -> Tensor:
    """Half as many at a time where memory does not suffice: a picture knows nothing of its neighbours."""
    start_noise = torch.stack([initial_noise(prompt.seed, model.latent_shape) for prompt in prompts])
    try:
        return model.sample(
            [prompt.text for prompt in prompts], start_noise, spec.steps, spec.guidance_scale, spec.sampler
        )
    except RuntimeError as error:
        if len(prompts) == 1 or not should_reduce_batch_size(error):
            raise
    middle = len(prompts) // 2
    return torch.cat([_draw_at_once(model, part, spec) for part in (prompts[:middle], prompts[middle:])])


def spec_named(name: str | None, model: str, batch_size: int) -> DrawSpec:
    """A paper's way of drawing, or without a name the model's default."""
    if name is None:
        return spec_for(model, batch_size=batch_size)
    return replace(suggest(name, DRAW_SPECS, "spec"), batch_size=batch_size)


def spec_for(
    model: str, steps: int | None = None, guidance_scale: float | None = None, batch_size: int = 24
) -> DrawSpec:
    """How an embedded model draws well, or diffusers' usual guidance; what is given comes first."""
    world = embedded_world(model)
    if world is None:
        usual = DrawSpec(guidance_scale=USUAL_GUIDANCE, batch_size=batch_size)
    else:
        usual = DrawSpec(world.steps, world.guidance_scale, batch_size, world.sampler)
    if steps is not None:
        usual = replace(usual, steps=steps)
    return usual if guidance_scale is None else replace(usual, guidance_scale=guidance_scale)
