"""Precision of a training: torch's autocast and loss scaling, the objects that `Accelerator` enters.

`Accelerator` itself would fix one precision for the life of a process, but a bench runs many trainings. On a CPU
attention stays in float32: its backward pass in bfloat16 is so slow that the rest would gain nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ..core.errors import NumericsError, SettingsError, require
from .options import PrecisionName

_HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Precision:
    """Sets the precision of a training. The default is float32, or the model's own dtype."""

    device: torch.device = torch.device("cpu")
    name: PrecisionName = "no"
    scaler: torch.amp.GradScaler | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        message = "mixed_precision fp16 needs a GPU, and the model is on a CPU: take bf16, or no"
        require(self.name != "fp16" or self.device.type != "cpu", message, SettingsError)
        if self.name == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Enter it around each call of a loss."""
        with (
            self._attending(),
            nullcontext() if self.name == "no" else torch.autocast(self.device.type, _HALF_DTYPES[self.name]),
        ):
            yield

    @contextmanager
    def recompute_activations(self, network: Any, enabled: bool) -> Iterator[None]:
        """Recompute a diffusers network's activations in the backward pass, if enabled (gradient checkpointing)."""
        if not enabled:
            yield
            return
        message = "checkpointing: this network cannot recompute its activations: leave it out"
        require(hasattr(network, "enable_gradient_checkpointing"), message, SettingsError)
        network.enable_gradient_checkpointing(
            partial(checkpoint, use_reentrant=False, context_fn=self._recompute_contexts)
        )
        try:
            yield
        finally:
            network.disable_gradient_checkpointing()

    def _recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of the first computation and of the recomputation.

        In the second torch restores its autocast alone, so attention's float32 is entered again.
        """
        return nullcontext(), self._attending()

    @contextmanager
    def _attending(self) -> Iterator[None]:
        with _WideAttention() if self.name != "no" and self.device.type == "cpu" else nullcontext():
            yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale the loss, because small gradients would become 0 in float16."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale_and_check(
        self, step: int, gradients: list[Tensor], params: Sequence[Tensor], rule: torch.optim.Optimizer
    ) -> list[Tensor] | None:
        """Return the gradients without the loss scale.

        If one is not finite, raises `NumericsError`; in float16 it skips the step (None) and halves the scale.
        """
        if self.scaler is not None:
            for param, g in zip(params, gradients, strict=True):
                param.grad = g
            self.scaler.unscale_(rule)
            gradients = [param.grad for param in params if param.grad is not None]
            rule.zero_grad(set_to_none=True)
            self.scaler.update()
        finite = all(bool(torch.isfinite(torch.linalg.vector_norm(g))) for g in gradients)
        if not finite and self.scaler is not None and self.scaler.get_scale() >= 1:
            return None
        require(
            finite,
            f"step {step}: the gradient holds NaN or infinity: use a smaller lr or a lower guidance, or float32",
            NumericsError,
        )
        return gradients

    def state(self) -> dict[str, Tensor]:
        return (
            {}
            if self.scaler is None
            else {name: torch.tensor(float(value)) for name, value in self.scaler.state_dict().items()}
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if self.scaler is not None:
            known = self.scaler.state_dict()
            self.scaler.load_state_dict({name: type(known[name])(float(t)) for name, t in state.items()})


class _WideAttention(TorchFunctionMode):
    """Computes attention within autocast in float32, whatever module calls it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is not F.scaled_dot_product_attention or not torch.is_autocast_enabled("cpu"):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            out = func(*map(_wide, args), **{name: _wide(part) for name, part in named.items()})
        return out.to(torch.get_autocast_dtype("cpu"))


def _wide(part: Any) -> Any:
    return part.float() if isinstance(part, Tensor) and part.is_floating_point() else part
