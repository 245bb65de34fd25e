"""Text encoders that leave the model's device while only its denoiser computes, and are back by themselves when
somebody reads a text.

A training reads its texts once, and then asks the denoiser alone, thousands of times: T5-XXL holds 9 GiB meanwhile in
float16. Hooks see who computes, so that no method needs to say when its last text is read.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..hooks.forward import remove_on_exit
from ..model_view import ModelView

_OFFLOAD_DEVICE = torch.device("cpu")
# Devices without a memory of their own: nothing would be gained there, and files read again.
_SHARED_MEMORY_DEVICES = ("cpu", "mps")


@contextmanager
def offload_idle_encoders(model: ModelView, parts: Iterable[str]) -> Iterator[None]:
    """Inside, these text encoders leave the device when the denoiser computes; afterwards all are on it again, whatever
    happens.

    They are back for `condition` and `sample`, which call them; `embed` reads their parameters where they are.
    One that is read again and again stays: each time it had to come back, it waits for twice as many calls of the
    denoiser before it leaves. One that a gradient goes back through stays for good, since the way back reads its
    weights.
    """
    if model.device.type in _SHARED_MEMORY_DEVICES:
        yield
        return
    encoders = [_Encoder(model.modules(part), model.device) for part in parts if model.checkpoint.has(part)]
    handles = [model.modules("denoiser").register_forward_pre_hook(encoder.wait) for encoder in encoders]
    handles += [encoder.module.register_forward_pre_hook(encoder.come, prepend=True) for encoder in encoders]
    handles += [encoder.module.register_forward_hook(encoder.look) for encoder in encoders]
    try:
        with remove_on_exit(handles):
            yield
    finally:
        for encoder in encoders:
            encoder.module.to(encoder.home)


@dataclass
class _Encoder:
    """One text encoder, as its hooks and the denoiser's move it."""

    module: nn.Module
    home: torch.device
    is_away: bool = False
    stays: bool = False
    idle: int = 0  # calls of the denoiser since it was read
    patience: int = 0  # so many of them it waits

    def wait(self, *_: Any) -> None:
        """The denoiser is about to compute."""
        self.idle += 1
        if not self.stays and not self.is_away and self.idle > self.patience:
            self.module.to(_OFFLOAD_DEVICE)
            self.is_away = True

    def come(self, *_: Any) -> None:
        """It is about to be read."""
        if self.is_away:
            self.patience = max(1, 2 * self.patience)
        # Always: parameters that were exchanged while it was away are where they were then.
        self.module.to(self.home)
        self.is_away, self.idle = False, 0

    def look(self, module: nn.Module, args: Any, out: Any) -> None:
        """It was read."""
        self.stays = self.stays or out[0].requires_grad
