"""Change weights for a while: every change is a context manager that leaves the model bitwise as it was."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


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
