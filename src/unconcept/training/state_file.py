"""Saves states of trainings: one safetensors file each, replaced atomically, so that a kill leaves the previous one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import DataError, require
from ..core.output_folder import atomic_file
from ..models.checkpoint.safetensors_io import write_tensors


@runtime_checkable
class TrainingState(Protocol):
    """A part of a training, other than weights, that changes from step to step: a trajectory, a mask, soft tokens."""

    def state(self) -> Mapping[str, Tensor]:
        """Return everything that `restore` needs."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Invert `state`."""


def gather_states(parts: Sequence[object]) -> dict[str, Tensor]:
    """Return the states of those parts that have one, each name prefixed with the part's index."""
    return {
        f"{i}.{name}": t
        for i, part in enumerate(parts)
        if isinstance(part, TrainingState)
        for name, t in part.state().items()
    }


def restore_states(parts: Sequence[object], state: Mapping[str, Tensor]) -> None:
    """Invert `gather_states`."""
    for i, part in enumerate(parts):
        if isinstance(part, TrainingState):
            part.restore(entries_below(state, f"{i}."))


def entries_below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose names begin with the prefix, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def write_state_file(path: Path, state: Mapping[str, Tensor], identity: str, source: str) -> None:
    """Write a state file; `source` is the hash of the training's code. Raises `OutputError` if it cannot be written."""
    remedy = "the state of the training cannot be saved: free some space or choose another folder"
    with atomic_file(path, remedy) as part:
        write_tensors(part, state, {"source": source, "identity": identity})


def read_state_file(path: Path, identity: str, source: str) -> dict[str, Tensor] | None:
    """Read a state file; None if there is none. Raises `DataError` if it is damaged or belongs to another training."""
    if not path.exists():
        return None
    again = f"delete {path}, or use the original ones"
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            told = (
                f"the training saved in {path} was begun by another version of the library: delete it, or continue with"
                " that version"
            )
            require(found.get("source") == source, told, DataError)
            require(
                found.get("identity") == identity,
                f"the training saved in {path} was begun with other settings, another model or other data: {again}",
                DataError,
            )
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"state {path} cannot be read: {error}; delete it: the training then begins anew") from None
