"""Low-rank changes of linear and convolutional modules, added while they compute."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .forward import remove_on_exit

# What stands between the two halves of a pair: a number, or a matrix (b, r, r) for each row of the batch.
LowRankMiddle = float | Tensor


class _LowRankHook:
    """Adds a pair's product to what a module gives."""

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
    """Inside, what the module is given is no row of the batch: `lora_hooks` add nothing that belongs to single rows."""
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
    """Inside, each linear map or convolution computes with W + up @ between @ down: up (o, r), down (r, d),
    differentiable in all three.

    A convolution's weight is read as a matrix (o, i * h * w). `between` is asked at every call. At the number 0 nothing
    is added; `without_per_row_adapters` leaves out matrices of rows.
    """
    # In front: a hook behind a map reads what the changed map gives, whichever came first.
    hooks = [module.register_forward_hook(_LowRankHook(up, down, between), prepend=True) for module, up, down in pairs]
    with remove_on_exit(hooks):
        yield


def _through(module: nn.Module, x: Tensor, up: Tensor, down: Tensor, middle: LowRankMiddle) -> Tensor:
    """What a pair makes of a map's input (b, .., d), or of a convolution's (b, i, h, w)."""
    if isinstance(module, nn.Conv2d):
        narrow = F.conv2d(
            x, down.unflatten(1, module.weight.shape[1:]), None, module.stride, module.padding, module.dilation
        )
        return F.conv2d(_mixed(narrow.movedim(1, -1), middle).movedim(-1, 1), up[:, :, None, None])
    return F.linear(_mixed(F.linear(x, down), middle), up)


def _mixed(narrow: Tensor, middle: LowRankMiddle) -> Tensor:
    """(b, .., r) times the number or each row's matrix."""
    return (
        torch.einsum("b...r,bsr->b...s", narrow, middle.to(narrow)) if isinstance(middle, Tensor) else middle * narrow
    )
