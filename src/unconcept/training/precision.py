"""What a training computes in: torch's autocast and loss scaling, the objects that `Accelerator` enters.

`Accelerator` would fix one precision for the whole life of a process, where a bench has many trainings. On a CPU
attention stays in float32: its way back is so slow in bfloat16 that nothing else would be gained.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..core.errors import NumericsError, SettingsError, require
from .options import PrecisionName

_HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Precision:
    """Between a loss and its step. The default is float32, or whatever the model is in."""

    device: torch.device = torch.device("cpu")
    name: PrecisionName = "no"
    scaler: torch.amp.GradScaler | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        message = "mixed_precision fp16 needs a GPU: on a CPU take bf16, or no"
        require(self.name != "fp16" or self.device.type != "cpu", message, SettingsError)
        if self.name == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Around each call of a loss."""
        with (
            self._attending(),
            nullcontext() if self.name == "no" else torch.autocast(self.device.type, _HALF_DTYPES[self.name]),
        ):
            yield

    def recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around what is recomputed on the way back: when it is computed first, and when again, where torch restores
        its autocast alone.
        """
        return nullcontext(), self._attending()

    @contextmanager
    def _attending(self) -> Iterator[None]:
        with _WideAttention() if self.name != "no" and self.device.type == "cpu" else nullcontext():
            yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        """What is differentiated: small gradients would be 0 in float16."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale_and_check(
        self, step: int, gradients: list[Tensor], params: Sequence[Tensor], rule: torch.optim.Optimizer
    ) -> list[Tensor] | None:
        """Gradients at their own size.

        `NumericsError` if one is no number; in float16 the step is left out then (None), and the scale halved.
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
            f"step {step}: the gradient holds what is no number: use a smaller lr or a lower guidance, or float32",
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
    """Attention within autocast computes in float32, whatever module asks for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is not F.scaled_dot_product_attention or not torch.is_autocast_enabled("cpu"):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            out = func(*map(_wide, args), **{name: _wide(part) for name, part in named.items()})
        return out.to(torch.get_autocast_dtype("cpu"))


def _wide(part: Any) -> Any:
    return part.float() if isinstance(part, Tensor) and part.is_floating_point() else part
