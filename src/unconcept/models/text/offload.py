"""Moves text encoders off the device while only the denoiser computes, and back when a text is encoded.

Training encodes its texts once and then calls only the denoiser, thousands of times, while T5-XXL would occupy 9 GiB in
float16. Hooks detect which network computes, so methods need not announce their last text.
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
# Devices without their own memory: offloading would gain nothing and read files again.
_SHARED_MEMORY_DEVICES = ("cpu", "mps")


@contextmanager
def offload_idle_encoders(model: ModelView, parts: Iterable[str]) -> Iterator[None]:
    """Move these text encoders off the device inside the block when the denoiser computes, and back at the end.

    They return for `condition` and `sample`, which call them; `embed` reads their parameters where they are. After
    each return, an encoder waits for twice as many calls of the denoiser before it leaves again, so one that is used
    often stays. An encoder through which gradients flow stays for good, since the backward pass reads its weights.
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
    """One text encoder, moved by its own hooks and the denoiser's."""

    module: nn.Module
    home: torch.device
    is_away: bool = False
    stays: bool = False
    idle: int = 0  # calls of the denoiser since its last use
    patience: int = 0  # number of such calls after which it leaves

    def wait(self, *_: Any) -> None:
        """Count a call of the denoiser, and leave the device after enough of them."""
        self.idle += 1
        if not self.stays and not self.is_away and self.idle > self.patience:
            self.module.to(_OFFLOAD_DEVICE)
            self.is_away = True

    def come(self, *_: Any) -> None:
        """Return to the device before a text is encoded."""
        if self.is_away:
            self.patience = max(1, 2 * self.patience)
        # Always: parameters that were exchanged while it was away may be on the other device.
        self.module.to(self.home)
        self.is_away, self.idle = False, 0

    def look(self, module: nn.Module, args: Any, out: Any) -> None:
        """Stay for good if its output has a gradient."""
        self.stays = self.stays or out[0].requires_grad
