"""Copies of small networks in less time than `copy.deepcopy` takes, which is as long as building them."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

ATOMS = frozenset((type(None), bool, int, float, str, tuple, torch.Size, torch.dtype, torch.device))
TABLES = ("_parameters", "_buffers", "_modules")


def network_copy(part: Any, done: dict[int, Any]) -> Any:
    """A deep copy; `done` is as in `copy.deepcopy`, so what two parts share is shared by their copies too."""
    if type(part) in ATOMS:
        return part
    if id(part) not in done:
        if isinstance(part, nn.Module):
            done[id(part)] = _module_copy(part, done)
        elif isinstance(part, nn.Parameter):
            done[id(part)] = nn.Parameter(part.detach().clone(), part.requires_grad)
        else:
            return deepcopy(part, done)
    return done[id(part)]


def _module_copy(module: nn.Module, done: dict[int, Any]) -> nn.Module:
    twin = object.__new__(type(module))
    done[id(module)] = twin
    for name, value in vars(module).items():
        if name in TABLES:
            own = {key: network_copy(each, done) for key, each in value.items()}
        elif type(value) in ATOMS:
            own = value
        elif isinstance(value, dict | set) and not value:  # Hooks, of which there are a dozen kinds.
            own = type(value)()
        else:
            own = network_copy(value, done)
        vars(twin)[name] = own
    return twin
