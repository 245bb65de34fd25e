"""MasaCtrl (Cao et al., ICCV 2023, arXiv:2304.08465): a picture and its edit are drawn side by side, the edit from
the picture's own keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...model_view import Conditioning, ModelView, SamplingStart
from ..callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from .registry import SamplingRequest, procedure

_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")  # of a UNet, in the order in which they compute


@procedure("mutual-attention")
@dataclass(frozen=True)
class MutualAttention:
    """From the noise of an inverted picture, draws it under its source text, and its edit under the prompt."""

    latents: Tensor  # (b, c, h, w): after an inversion, at the first step
    sources: tuple[str, ...]
    """Texts under which the pictures were inverted."""
    steps: int
    guidance_scale: float
    first_step: int = 4
    """Step from which the edit reads the picture's keys and values."""
    first_layer: int = 10
    """Self-attention from which on it does so, counted in the order in which they compute."""

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw the edits by DDIM; noise, and the settings of other drawings, are not read."""
        both = Conditioning.concatenate([model.condition(self.sources), asked.texts])
        start, now = SamplingStart(torch.cat([self.latents, self.latents])), [0]

        def count(at: SamplingStep) -> None:
            now[0] = at.k

        layers = self_attentions(model)[self.first_layer :]
        rows = len(self.latents)
        with (
            callbacks_on(model.modules("denoiser"), SamplingCallbacks(before=count)),
            shared_keys(layers, rows, lambda: now[0] >= self.first_step),
        ):
            return model.sample(both, start, self.steps, self.guidance_scale, "ddim")[rows:]


def self_attentions(model: ModelView) -> list[nn.Module]:
    """The self-attentions of a UNet in the order in which they compute."""
    found = [(name, module) for name, module in model.modules("denoiser").named_modules() if name.endswith(".attn1")]
    order = {prefix: number for number, prefix in enumerate(_BLOCKS)}
    ranked = sorted(found, key=lambda pair: order[pair[0].partition(".")[0] + "."])
    return [module for _, module in ranked]


@contextmanager
def shared_keys(attentions: Sequence[nn.Module], rows: int, is_on: Callable[[], bool]) -> Iterator[None]:
    """Let the second of every two groups of `rows` rows attend to the keys and values of the first, while `is_on()`."""

    def share(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_on():
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        groups = hidden.unflatten(0, (-1, 2, rows))
        read = torch.stack([groups[:, 0], groups[:, 0]], 1).flatten(0, 2)
        return args, {**kwargs, "encoder_hidden_states": read}

    handles = [module.register_forward_pre_hook(share, with_kwargs=True) for module in attentions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
