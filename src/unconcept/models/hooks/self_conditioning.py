"""Self-conditioning of a UNet on its own features: DDAE++, Xiang et al. 2025, arXiv:2505.10999."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .forward import remove_on_exit


class SelfConditioning(nn.Module):
    """Maps the pooled features of the middle block, (b, c), to what is added to the time embedding, (b, d).

    The last map begins at zero, so that a network under new conditioning predicts what it did before. Layers and form
    of the map are (inferred): the paper's text says that pooled features condition the decoder, its code is not out.
    """

    def __init__(self, channels: int, time_width: int) -> None:
        super().__init__()
        last = nn.Linear(time_width, time_width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, time_width), nn.SiLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """Pool the features (b, c, h, w) over places and map them: (b, d)."""
        return self.layers(features.mean((2, 3)))  # type: ignore[no-any-return]


@contextmanager
def self_conditioned(unet: nn.Module, conditioning: SelfConditioning) -> Iterator[None]:
    """Inside, a UNet of diffusers adds `conditioning` of its middle block's output to the decoder's time embedding.

    One forward pass, differentiable through the features as well.
    """
    added: list[Tensor] = []

    def pool(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        added[:] = [conditioning(out)]

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "temb" in kwargs:
            return args, {**kwargs, "temb": kwargs["temb"] + added[0]}
        sample, residuals, embedding, *rest = args
        return (sample, residuals, embedding + added[0], *rest), kwargs

    decoder = unet.get_submodule("up_blocks").children()
    hooks = [unet.get_submodule("mid_block").register_forward_hook(pool)]
    hooks += [block.register_forward_pre_hook(add, with_kwargs=True) for block in decoder]
    with remove_on_exit(hooks):
        yield
