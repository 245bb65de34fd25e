"""What a training computes in, and the processes that share it.

Processes are Accelerate's (`accelerate launch -m unconcept erase ...`): each draws samples of its own and the gradients
are averaged, so that a step sees as many times its batch. Process r adds r x 1,000,003,000 to every seed of noise and
order. The first process keeps the state of all.

Precision is torch's autocast and loss scaling, the objects that `Accelerator` enters; it would fix one precision for
the whole life of a process, where a bench has many trainings. On a CPU attention stays in float32: its way back is so
slow in bfloat16 that nothing else would be gained.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..core.errors import NumericsError, SettingsError, require
from .options import PrecisionName

_RANK_SEED_STEP = 1_000_003_000
_HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SHARED_STATE_PREFIXES = ("param.", "rule.")  # what of a descent's state is the same in every process


def process_state(device: torch.device) -> PartialState:
    """The processes of this job; one, unless it was launched as several."""
    return PartialState(cpu=device.type == "cpu")


def rank_seed_offset(device: torch.device) -> int:
    """What this process adds to a seed, so that no two draw the same; 0 in the first."""
    offset: int = process_state(device).process_index * _RANK_SEED_STEP
    return offset


@dataclass
class ProcessGroup:
    """Between a loss and its step. The default is float32, or whatever the model is in, in this process alone."""

    device: torch.device = torch.device("cpu")
    precision: PrecisionName = "no"
    is_distributed: bool = False  # gradients, with the other processes
    scaler: torch.amp.GradScaler | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        message = "mixed_precision fp16 needs a GPU: on a CPU take bf16, or no"
        require(self.precision != "fp16" or self.device.type != "cpu", message, SettingsError)
        if self.precision == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    @property
    def world_size(self) -> int:
        """Of processes."""
        return process_state(self.device).num_processes if self.is_distributed else 1

    @property
    def rank(self) -> int:
        return process_state(self.device).process_index if self.is_distributed else 0

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Around each call of a loss."""
        with (
            self._attending(),
            nullcontext() if self.precision == "no" else torch.autocast(self.device.type, _HALF_DTYPES[self.precision]),
        ):
            yield

    def recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around what is recomputed on the way back: when it is computed first, and when again, where torch restores
        its autocast alone.
        """
        return nullcontext(), self._attending()

    @contextmanager
    def _attending(self) -> Iterator[None]:
        with _WideAttention() if self.precision != "no" and self.device.type == "cpu" else nullcontext():
            yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        """What is differentiated: small gradients would be 0 in float16."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def average_gradients(self, loss: float, gradients: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """Means over all processes."""
        if self.world_size == 1:
            return loss, list(gradients)
        mean: Any = reduce([torch.tensor(loss, dtype=torch.float64, device=self.device), *gradients], "mean")
        return float(mean[0]), mean[1:]

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

    def broadcast_bool(self, is_so: bool) -> bool:
        """The first process's answer."""
        if self.world_size == 1:
            return is_so
        found: Any = broadcast(torch.tensor(float(is_so), device=self.device))
        return bool(found)

    def all_true(self, is_so: bool) -> bool:
        """Whether all processes say so."""
        if self.world_size == 1:
            return is_so
        found: Any = reduce(torch.tensor(float(is_so), device=self.device), "mean")
        return float(found) == 1

    def broadcast_parameters(self, tensors: Sequence[Tensor], identity: str) -> str:
        """All processes begin with the first one's tensors; its word of what the training is."""
        if self.world_size == 1:
            return identity
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach().clone()))
        return str(broadcast_object_list([identity])[0])

    def gather_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of all processes in one: the first one's, and of the others what is not the same everywhere."""
        if self.world_size == 1:
            return dict(state)
        every = gather_object([{name: t.detach().cpu() for name, t in state.items()}])
        others = (
            (f"rank.{i}.{name}", t)
            for i, own in enumerate(every[1:], 1)
            for name, t in own.items()
            if not _is_alike(name)
        )
        return dict(every[0]) | dict(others)

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse, in each process."""
        prefix = f"rank.{self.rank}."
        return {name: t for name, t in state.items() if not name.startswith("rank.")} | {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }

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


def _is_alike(name: str) -> bool:
    return name.removeprefix("descent.").startswith(_SHARED_STATE_PREFIXES)


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
