"""Shares one training between processes.

They are started by Accelerate (`accelerate launch -m unconcept erase ...`). Each draws its own samples, and gradients
are averaged, so N processes multiply the batch by N. Process r adds r x 1,000,003,000 to every seed of noise and order.
The first process saves the state of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce
from torch import Tensor

from ..core.seeds import RANK_SEED_STEP

_SHARED_STATE_PREFIXES = ("param.", "rule.")  # entries of a descent's state that are equal in every process


def process_state(device: torch.device) -> PartialState:
    """Return Accelerate's record of this job's processes; one process unless several were launched."""
    return PartialState(cpu=device.type == "cpu")


def rank_seed_offset(device: torch.device) -> int:
    """Return what this process adds to a seed, so that no two processes draw the same; 0 in the first."""
    offset: int = process_state(device).process_index * RANK_SEED_STEP
    return offset


@dataclass
class ProcessGroup:
    """Averages and broadcasts between processes. The default is this process alone."""

    device: torch.device = torch.device("cpu")
    is_distributed: bool = False
    """Whether the job's other processes take part."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return process_state(self.device).num_processes if self.is_distributed else 1

    @property
    def rank(self) -> int:
        return process_state(self.device).process_index if self.is_distributed else 0

    def average_gradients(self, loss: float, gradients: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """Return the means of loss and gradients over all processes."""
        if self.world_size == 1:
            return loss, list(gradients)
        mean: Any = reduce([torch.tensor(loss, dtype=torch.float64, device=self.device), *gradients], "mean")
        return float(mean[0]), mean[1:]

    def broadcast_bool(self, is_so: bool) -> bool:
        """Return the first process's value."""
        if self.world_size == 1:
            return is_so
        found: Any = broadcast(torch.tensor(float(is_so), device=self.device))
        return bool(found)

    def all_true(self, is_so: bool) -> bool:
        """Return whether the value is true in all processes."""
        if self.world_size == 1:
            return is_so
        found: Any = reduce(torch.tensor(float(is_so), device=self.device), "mean")
        return float(found) == 1

    def broadcast_parameters(self, tensors: Sequence[Tensor], identity: str) -> str:
        """Copy the first process's tensors to all, and return the first one's identity of the training."""
        if self.world_size == 1:
            return identity
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach().clone()))
        return str(broadcast_object_list([identity])[0])

    def gather_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merge the states of all processes: the first one's, and from the others the entries that may differ."""
        if self.world_size == 1:
            return dict(state)
        first, *others = gather_object([{name: t.detach().cpu() for name, t in state.items()}])
        found: dict[str, Tensor] = dict(first)
        for i, own in enumerate(others, 1):
            found |= {f"rank.{i}.{name}": t for name, t in own.items() if not _is_alike(name)}
        return found

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Invert `gather_state`: return the part of this process."""
        prefix = f"rank.{self.rank}."
        return {name: t for name, t in state.items() if not name.startswith("rank.")} | {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }


def _is_alike(name: str) -> bool:
    return name.removeprefix("descent.").startswith(_SHARED_STATE_PREFIXES)
