"""States of trainings on disk: one safetensors file each, replaced whole, so that a kill leaves the former one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import DataError, require
from ..core.output_folder import atomic_file


@runtime_checkable
class TrainingState(Protocol):
    """Something of a training that changes from step to step and is no weight: a trajectory, a mask, soft tokens."""

    def state(self) -> Mapping[str, Tensor]:
        """All that `restore` needs."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse."""


def gather_states(parts: Sequence[object]) -> dict[str, Tensor]:
    """The states of those parts that have one, under their numbers."""
    return {
        f"{i}.{name}": t
        for i, part in enumerate(parts)
        if isinstance(part, TrainingState)
        for name, t in part.state().items()
    }


def restore_states(parts: Sequence[object], state: Mapping[str, Tensor]) -> None:
    """The inverse of `gather_states`."""
    for i, part in enumerate(parts):
        if isinstance(part, TrainingState):
            part.restore(entries_below(state, f"{i}."))


def entries_below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def write_state_file(path: Path, state: Mapping[str, Tensor], identity: str, source: str) -> None:
    """`source` is the hash of the code that trains. `OutputError` if the folder cannot be written."""
    remedy = "the state of the training cannot be kept: free some space or choose another place"
    with atomic_file(path, remedy) as part:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
            part,
            metadata={"source": source, "identity": identity},
        )


def read_state_file(path: Path, identity: str, source: str) -> dict[str, Tensor] | None:
    """The state that is kept there, None if there is none. `DataError` if it is another training's, or damaged."""
    if not path.exists():
        return None
    again = f"delete {path}, or give what it was begun with"
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            told = (
                f"the training kept in {path} was begun by another version of the library: delete it, or go on with"
                " that version"
            )
            require(found.get("source") == source, told, DataError)
            require(
                found.get("identity") == identity,
                f"the training kept in {path} was begun with other settings, another model or other data: {again}",
                DataError,
            )
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"state {path} cannot be read: {error}; delete it: the training then begins anew") from None
