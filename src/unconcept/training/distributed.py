"""The processes that share a training.

They are Accelerate's (`accelerate launch -m unconcept erase ...`): each draws samples of its own and the gradients are
averaged, so that a step sees as many times its batch. Process r adds r x 1,000,003,000 to every seed of noise and
order. The first process keeps the state of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce
from torch import Tensor

_RANK_SEED_STEP = 1_000_003_000
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
    """Averages and shares between processes. The default is this process alone."""

    device: torch.device = torch.device("cpu")
    is_distributed: bool = False
    """Whether the other processes take part."""

    @property
    def world_size(self) -> int:
        """Of processes."""
        return process_state(self.device).num_processes if self.is_distributed else 1

    @property
    def rank(self) -> int:
        return process_state(self.device).process_index if self.is_distributed else 0

    def average_gradients(self, loss: float, gradients: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """Means over all processes."""
        if self.world_size == 1:
            return loss, list(gradients)
        mean: Any = reduce([torch.tensor(loss, dtype=torch.float64, device=self.device), *gradients], "mean")
        return float(mean[0]), mean[1:]

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
        first, *others = gather_object([{name: t.detach().cpu() for name, t in state.items()}])
        found: dict[str, Tensor] = dict(first)
        for i, own in enumerate(others, 1):
            found |= {f"rank.{i}.{name}": t for name, t in own.items() if not _is_alike(name)}
        return found

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse, in each process."""
        prefix = f"rank.{self.rank}."
        return {name: t for name, t in state.items() if not name.startswith("rank.")} | {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }


def _is_alike(name: str) -> bool:
    return name.removeprefix("descent.").startswith(_SHARED_STATE_PREFIXES)
