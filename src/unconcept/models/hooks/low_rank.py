"""Low-rank changes of linear and convolutional modules, added while they compute."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .forward import remove_on_exit

# What stands between the two halves of a pair: a number, or a matrix (b, r, r) for each row of the batch.
LowRankMiddle = float | Tensor


_aside: ContextVar[bool] = ContextVar("aside", default=False)


@contextmanager
def without_per_row_adapters() -> Iterator[None]:
    """Inside, what maps are given is no row of the batch: what is added to each row by its own text (`lora_hooks`) is
    added to nothing.
    """
    token = _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(token)


@contextmanager
def lora_hooks(
    pairs: Iterable[tuple[nn.Module, Tensor, Tensor]], between: Callable[[], LowRankMiddle] = lambda: 1.0
) -> Iterator[None]:
    """Inside, each linear map or convolution computes with W + up @ between @ down: up (o, r), down (r, d),
    differentiable in all three.

    A convolution's weight is read as a matrix (o, i * h * w). `between` is asked at every call; at the number 0 nothing
    is added, nor, `without_per_row_adapters`, by matrices of rows.
    """

    def hook(up: Tensor, down: Tensor):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            middle = between()
            if _aside.get() if isinstance(middle, Tensor) else middle == 0:
                return out
            return out + _through(module, args[0].to(down), up, down, middle).to(out)

        return add

    # In front: what is hung behind a map reads what the changed map gives, whichever came first.
    with remove_on_exit([module.register_forward_hook(hook(up, down), prepend=True) for module, up, down in pairs]):
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
