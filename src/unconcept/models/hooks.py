"""Change weights for a while: every change is a context manager that leaves the model bitwise as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def swapped(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], pristine: dict[str, Tensor]) -> Iterator[None]:
    """Inside, each named parameter holds the given values.

    `pristine` is the view's record of weights before any edit: what stands there already is from an outer change.
    """
    before = {name: parameters[name].detach().clone() for name in values}
    first = [name for name in before if name not in pristine]
    pristine.update({name: before[name] for name in first})
    try:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
        for name in first:
            del pristine[name]


@contextmanager
def exchanged(modules: Mapping[str, nn.Module], values: Mapping[str, nn.Parameter], pristine: dict[str, Tensor]) -> Iterator[None]:
    """Inside, each module of a parameter's full name computes with another parameter. Nothing is copied.

    `pristine` as in `swapped`.
    """
    leaves = {name: name.rpartition(".")[2] for name in values}
    before = {name: modules[name].get_parameter(leaf) for name, leaf in leaves.items()}
    first = [name for name in before if name not in pristine]
    pristine.update({name: before[name] for name in first})
    try:
        for name, value in values.items():
            setattr(modules[name], leaves[name], value)
        yield
    finally:
        for name, own in before.items():
            setattr(modules[name], leaves[name], own)
        for name in first:
            del pristine[name]


@contextmanager
def hung(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, these hooks are there; afterwards they are gone."""
    hooks = list(handles)
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def first_detached(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, no gradient goes through what each module makes of the first token of its input (b, l, d)."""

    def cut(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], 1)

    with hung([module.register_forward_hook(cut) for module in modules]):
        yield


@contextmanager
def rows_at(embedding: nn.Module, at: Tensor, rows: Tensor) -> Iterator[None]:
    """Inside, a token embedding gives `rows` (b, k, d) at positions `at` (b, k) of its output (b, l, d)."""

    def put(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out.scatter(1, at[..., None].expand(rows.shape).to(out.device), rows.to(out))

    with hung([embedding.register_forward_hook(put)]):
        yield


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, each output of a module is also put on the list (of several, the first); what is computed stays as it was."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(out if isinstance(out, Tensor) else out[0])

    with hung([module.register_forward_hook(keep)]):
        yield outputs


@contextmanager
def states_mapped(denoiser: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Inside, a denoiser reads each text state s (.., d) as s + (s y^T) x: x, y (n, d)."""

    def put(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        states = kwargs["encoder_hidden_states"]
        wide = torch.promote_types(states.dtype, x.dtype)
        added = (states.to(wide) @ y.to(states.device, wide).T) @ x.to(states.device, wide)
        return args, {**kwargs, "encoder_hidden_states": (states.to(wide) + added).to(states.dtype)}

    with hung([denoiser.register_forward_pre_hook(put, with_kwargs=True)]):
        yield


@contextmanager
def outputs_changed(modules: Mapping[str, nn.Module], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Inside, each module gives what `change` makes of its name and its output."""

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, out: change(name, out)

    with hung([module.register_forward_hook(hook(name)) for name, module in modules.items()]):
        yield


@contextmanager
def states_seen(denoiser: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, the text states (b, l, d) of each call of a denoiser are shown before it computes."""

    def show(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        see(kwargs["encoder_hidden_states"])

    with hung([denoiser.register_forward_pre_hook(show, with_kwargs=True)]):
        yield
