"""Context managers that change or record what modules compute, and restore the model afterwards."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def remove_on_exit(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks when the block ends."""
    hooks = list(handles)
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def detach_first_token(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Block the gradient through each module's output (b, l, d) at the first token."""

    def cut(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], 1)

    with remove_on_exit([module.register_forward_hook(cut) for module in modules]):
        yield


@contextmanager
def with_soft_rows(embedding: nn.Module, at: Tensor, rows: Tensor) -> Iterator[None]:
    """Replace a token embedding's output (b, l, d) at positions `at` (b, k) by `rows` (b, k, d)."""

    def put(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out.scatter(1, at[..., None].expand(rows.shape).to(out.device), rows.to(out))

    with remove_on_exit([embedding.register_forward_hook(put)]):
        yield


@contextmanager
def record_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Append each output of a module to the list, or the first if it returns several, without changing it."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(out if isinstance(out, Tensor) else out[0])

    with remove_on_exit([module.register_forward_hook(keep)]):
        yield outputs


@contextmanager
def map_text_states(denoiser: nn.Module, projection: str, x: Tensor, y: Tensor) -> Iterator[None]:
    """Replace each text state s (.., d) that a denoiser reads by s + (s y^T) x: x, y (n, d).

    `projection` names the denoiser's module that states pass first, after which they are replaced; "" if there is none.
    """

    def mapped(states: Tensor) -> Tensor:
        wide = torch.promote_types(states.dtype, x.dtype)
        added = (states.to(wide) @ y.to(states.device, wide).T) @ x.to(states.device, wide)
        return (states.to(wide) + added).to(states.dtype)

    def put(
        module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        return args, {**kwargs, "encoder_hidden_states": mapped(kwargs["encoder_hidden_states"])}

    if projection:
        handle = denoiser.get_submodule(projection).register_forward_hook(lambda module, args, out: mapped(out))
    else:
        handle = denoiser.register_forward_pre_hook(put, with_kwargs=True)
    with remove_on_exit([handle]):
        yield


@contextmanager
def change_outputs(modules: Mapping[str, nn.Module], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Replace each module's output by `change(name, output)`."""

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, out: change(name, out)

    with remove_on_exit([module.register_forward_hook(hook(name)) for name, module in modules.items()]):
        yield


@contextmanager
def add_from_inputs(modules: Mapping[str, nn.Module], added: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Add `added(name, input)` to each module's output, in the output's dtype."""

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, out: (out + added(name, args[0])).to(out.dtype)

    with remove_on_exit([module.register_forward_hook(hook(name)) for name, module in modules.items()]):
        yield


@contextmanager
def watch_text_states(denoiser: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `see` with the text states (b, l, d) before each call of a denoiser."""

    def show(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        see(kwargs["encoder_hidden_states"])

    with remove_on_exit([denoiser.register_forward_pre_hook(show, with_kwargs=True)]):
        yield


@contextmanager
def record_inputs(maps: Mapping[str, nn.Linear]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the inputs of each map under its name: one detached (b, l, d) for each call."""
    kept: dict[str, list[Tensor]] = {name: [] for name in maps}

    def hook(inputs: list[Tensor]):  # type: ignore[no-untyped-def]
        return lambda module, args: inputs.append(args[0].detach())

    with remove_on_exit([module.register_forward_pre_hook(hook(kept[name])) for name, module in maps.items()]):
        yield kept
