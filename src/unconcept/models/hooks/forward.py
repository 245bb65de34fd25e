"""Change or record what modules compute for a while: every change is a context manager
that leaves the model as it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def remove_on_exit(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, these hooks are there; afterwards they are gone."""
    hooks = list(handles)
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def detach_first_token(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, no gradient goes through what each module makes of the first token of its input (b, l, d)."""

    def cut(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], 1)

    with remove_on_exit([module.register_forward_hook(cut) for module in modules]):
        yield


@contextmanager
def with_soft_rows(embedding: nn.Module, at: Tensor, rows: Tensor) -> Iterator[None]:
    """Inside, a token embedding gives `rows` (b, k, d) at positions `at` (b, k) of its output (b, l, d)."""

    def put(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out.scatter(1, at[..., None].expand(rows.shape).to(out.device), rows.to(out))

    with remove_on_exit([embedding.register_forward_hook(put)]):
        yield


@contextmanager
def record_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, each output of a module is also put on the list (of several, the first); what is computed stays as it
    was.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(out if isinstance(out, Tensor) else out[0])

    with remove_on_exit([module.register_forward_hook(keep)]):
        yield outputs


@contextmanager
def map_text_states(denoiser: nn.Module, projection: str, x: Tensor, y: Tensor) -> Iterator[None]:
    """Inside, a denoiser reads each text state s (.., d) as s + (s y^T) x: x, y (n, d).

    `projection` names its module that states go through first; "" where there is none.
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
    """Inside, each module gives what `change` makes of its name and its output."""

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, out: change(name, out)

    with remove_on_exit([module.register_forward_hook(hook(name)) for name, module in modules.items()]):
        yield


@contextmanager
def watch_text_states(denoiser: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, the text states (b, l, d) of each call of a denoiser are shown before it computes."""

    def show(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        see(kwargs["encoder_hidden_states"])

    with remove_on_exit([denoiser.register_forward_pre_hook(show, with_kwargs=True)]):
        yield


@contextmanager
def record_inputs(maps: Mapping[str, nn.Linear]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, what each map is given is kept under its name: one (b, l, d) a call, detached."""
    kept: dict[str, list[Tensor]] = {name: [] for name in maps}

    def hook(inputs: list[Tensor]):  # type: ignore[no-untyped-def]
        return lambda module, args: inputs.append(args[0].detach())

    with remove_on_exit([module.register_forward_pre_hook(hook(kept[name])) for name, module in maps.items()]):
        yield kept
