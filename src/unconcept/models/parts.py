"""Parts of the denoiser by what they do, under their full names."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .view import ModelView

ATTENTION = re.compile(r"\.attn\d\.(to_q|to_k|to_v|to_out\.0)$")


def attention_maps(model: ModelView) -> dict[str, nn.Linear]:
    """The linear maps of every attention by the full name of their weight."""
    found = model.modules("denoiser").named_modules()
    return {f"unet.{name}.weight": module for name, module in found if isinstance(module, nn.Linear) and ATTENTION.search(name)}


def denoiser_parameters(model: ModelView) -> dict[str, nn.Parameter]:
    """Everything the denoiser computes with."""
    return {f"unet.{name}": parameter for name, parameter in model.modules("denoiser").named_parameters()}


@contextmanager
def trainable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, gradients reach the parameters; afterwards each is as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)


@contextmanager
def low_rank_added(pairs: Iterable[tuple[nn.Module, Tensor, Tensor]]) -> Iterator[None]:
    """Inside, each linear map computes with W + up @ down: up (o, r), down (r, d), differentiable in both."""

    def hook(up: Tensor, down: Tensor):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return out + torch.nn.functional.linear(torch.nn.functional.linear(args[0].to(down), down), up).to(out)

        return add

    handles = []
    try:
        for module, up, down in pairs:
            handles.append(module.register_forward_hook(hook(up, down)))
        yield
    finally:
        for handle in handles:
            handle.remove()
