"""Context managers that change weights and restore the model bitwise afterwards."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def with_values(
    parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], pristine: dict[str, Tensor]
) -> Iterator[None]:
    """Set each named parameter to the given values inside the block.

    `pristine` is the view's record of weights before any edit. Entries that exist already come from an outer change
    and are kept.
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
def with_parameters(
    modules: Mapping[str, nn.Module], values: Mapping[str, nn.Parameter], pristine: dict[str, Tensor]
) -> Iterator[None]:
    """Exchange parameters of modules inside the block, by the parameter's full name, without copying.

    `pristine` as in `with_values`.
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
def freeze_parameters(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Turn off the gradients of the modules' parameters inside the block, and restore each setting afterwards."""
    before = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)
