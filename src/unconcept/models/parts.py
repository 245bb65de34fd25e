"""Parts of the denoiser by what they do, under their full names."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ModelError
from .hooks import hung
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

    with hung([module.register_forward_pre_hook(hook(kept[name])) for name, module in maps.items()]):
        yield kept


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


def modules_named(model: ModelView, names: Iterable[str]) -> dict[str, nn.Module]:
    """The denoiser's modules that weights belong to, by the full name of each weight; `ModelError` where one is not there."""
    denoiser, found = model.modules("denoiser"), {}
    for name in names:
        try:
            found[name] = denoiser.get_submodule(name.partition(".")[2].removesuffix(".weight"))
        except AttributeError:
            raise ModelError(f"the model {model.name} has no {name}: what hangs there is for another family") from None
    return found


Between = float | Tensor  # what stands between the two halves of a pair: a number, or a matrix (b, r, r) for each row of the batch


_aside: ContextVar[bool] = ContextVar("aside", default=False)


@contextmanager
def aside() -> Iterator[None]:
    """Inside, what maps are given is no row of the batch: what is added to each row by its own text (`low_rank_added`) is added to nothing."""
    token = _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(token)


@contextmanager
def low_rank_added(pairs: Iterable[tuple[nn.Module, Tensor, Tensor]], between: Callable[[], Between] = lambda: 1.0) -> Iterator[None]:
    """Inside, each linear map or convolution computes with W + up @ between @ down: up (o, r), down (r, d), differentiable in all three.

    A convolution's weight is read as a matrix (o, i * h * w). `between` is asked at every call; at the number 0 nothing is added,
    nor, `aside`, by matrices of rows.
    """

    def hook(up: Tensor, down: Tensor):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            middle = between()
            if _aside.get() if isinstance(middle, Tensor) else middle == 0:
                return out
            return out + _through(module, args[0].to(down), up, down, middle).to(out)

        return add

    # In front: what is hung behind a map reads what the changed map gives, whichever came first.
    with hung([module.register_forward_hook(hook(up, down), prepend=True) for module, up, down in pairs]):
        yield


def _through(module: nn.Module, x: Tensor, up: Tensor, down: Tensor, middle: Between) -> Tensor:
    """What a pair makes of a map's input (b, .., d), or of a convolution's (b, i, h, w)."""
    if isinstance(module, nn.Conv2d):
        narrow = F.conv2d(x, down.unflatten(1, module.weight.shape[1:]), None, module.stride, module.padding, module.dilation)
        return F.conv2d(_mixed(narrow.movedim(1, -1), middle).movedim(-1, 1), up[:, :, None, None])
    return F.linear(_mixed(F.linear(x, down), middle), up)


def _mixed(narrow: Tensor, middle: Between) -> Tensor:
    """(b, .., r) times the number or each row's matrix."""
    return torch.einsum("b...r,bsr->b...s", narrow, middle.to(narrow)) if isinstance(middle, Tensor) else middle * narrow
