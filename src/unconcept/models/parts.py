"""Parts of the denoiser by what they do, under their full names."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .view import Family, ModelView

ATTENTION = re.compile(r"\.attn\d?\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)$")
STREAM = re.compile(r"\.attn\.add_[kv]_proj$")
FOLDERS: dict[Family, str] = {"sd1": "unet", "sd2": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer"}


def attention_maps(model: ModelView) -> dict[str, nn.Linear]:
    """The linear maps of every attention by the full name of their weight."""
    found = model.modules("denoiser").named_modules()
    return {f"{FOLDERS[model.family]}.{name}.weight": module for name, module in found if isinstance(module, nn.Linear) and ATTENTION.search(name)}


def stream_maps(model: ModelView) -> dict[str, nn.Linear]:
    """Keys and values that SD3's and FLUX's blocks make of the text stream, by the full name of their weight; none in a UNet.

    48 in SD3, 38 in FLUX. They are no text maps: what they are given depends on block, timestep and picture, and is to be recorded.
    """
    found = model.modules("denoiser").named_modules()
    return {f"{FOLDERS[model.family]}.{name}.weight": module for name, module in found if isinstance(module, nn.Linear) and STREAM.search(name)}


@contextmanager
def recorded(maps: Mapping[str, nn.Linear]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, what each map is given is kept under its name: one (b, l, d) a call, detached."""
    kept: dict[str, list[Tensor]] = {name: [] for name in maps}

    def hook(inputs: list[Tensor]):  # type: ignore[no-untyped-def]
        return lambda module, args: inputs.append(args[0].detach())

    handles = [module.register_forward_pre_hook(hook(kept[name])) for name, module in maps.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def denoiser_parameters(model: ModelView) -> dict[str, nn.Parameter]:
    """Everything the denoiser computes with."""
    return {f"{FOLDERS[model.family]}.{name}": parameter for name, parameter in model.modules("denoiser").named_parameters()}


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, no gradient reaches the parameters of the modules; afterwards each is as it was."""
    before = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)


@contextmanager
def low_rank_added(pairs: Iterable[tuple[nn.Module, Tensor, Tensor]], is_on: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Inside, while `is_on`, each linear map computes with W + up @ down: up (o, r), down (r, d), differentiable in both."""

    def hook(up: Tensor, down: Tensor):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not is_on():
                return out
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
