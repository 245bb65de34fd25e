"""Low-rank changes of linear and convolutional modules, added to their outputs by hooks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .forward import remove_on_exit

# The middle factor of up @ middle @ down: a number, or a matrix for each row of the batch (b, r, r).
LowRankMiddle = float | Tensor


class _LowRankHook:
    """Adds a pair's product to a module's output."""

    is_per_row_off = False

    def __init__(self, up: Tensor, down: Tensor, between: Callable[[], LowRankMiddle]) -> None:
        self.up, self.down, self.between = up, down, between

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        middle = self.between()
        if self.is_per_row_off if isinstance(middle, Tensor) else middle == 0:
            return out
        return out + _through(module, args[0].to(self.down), self.up, self.down, middle).to(out)


@contextmanager
def without_per_row_adapters(module: nn.Module) -> Iterator[None]:
    """Turn off the changes of single rows, because inside the block the module's input is not a row of the batch."""
    hooks = [hook for hook in module._forward_hooks.values() if isinstance(hook, _LowRankHook)]
    before = [hook.is_per_row_off for hook in hooks]
    for hook in hooks:
        hook.is_per_row_off = True
    try:
        yield
    finally:
        for hook, was_off in zip(hooks, before, strict=True):
            hook.is_per_row_off = was_off


@contextmanager
def lora_hooks(
    pairs: Iterable[tuple[nn.Module, Tensor, Tensor]], between: Callable[[], LowRankMiddle] = lambda: 1.0
) -> Iterator[None]:
    """Let each linear map or convolution compute with W + up @ between @ down: up (o, r), down (r, d).

    Differentiable in all three. A convolution's weight counts as a matrix (o, i * h * w). `between` is called at every
    forward pass. At the number 0 nothing is added; `without_per_row_adapters` turns off matrices of single rows.
    """
    # Prepended, so that any other hook on the map sees the changed output, whichever was registered first.
    hooks = [module.register_forward_hook(_LowRankHook(up, down, between), prepend=True) for module, up, down in pairs]
    with remove_on_exit(hooks):
        yield


def _through(module: nn.Module, x: Tensor, up: Tensor, down: Tensor, middle: LowRankMiddle) -> Tensor:
    """Apply a pair to a map's input (b, .., d), or to a convolution's (b, i, h, w)."""
    if isinstance(module, nn.Conv2d):
        narrow = F.conv2d(
            x, down.unflatten(1, module.weight.shape[1:]), None, module.stride, module.padding, module.dilation
        )
        return F.conv2d(_mixed(narrow.movedim(1, -1), middle).movedim(-1, 1), up[:, :, None, None])
    return F.linear(_mixed(F.linear(x, down), middle), up)


def _mixed(narrow: Tensor, middle: LowRankMiddle) -> Tensor:
    """Multiply (b, .., r) by the number, or by the matrix of each row."""
    return (
        torch.einsum("b...r,bsr->b...s", narrow, middle.to(narrow)) if isinstance(middle, Tensor) else middle * narrow
    )
