"""What a training is made of, written to one file and read back. Files of another world or plan are refused."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass
class Training:
    """Network, its running average, optimisers, and how far it is."""

    module: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    minutes: float = 0.0


def save(path: Path, training: Training, key: str) -> None:
    """Write everything; `key` says what it belongs to."""
    tensors = {f"module.{n}": t for n, t in training.module.state_dict().items()}
    tensors |= {f"average.{n}": t for n, t in training.average.state_dict().items()}
    for number, optimizer in enumerate(training.optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{i}.{n}": t for n, t in state.items()}
    temporary = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"progress": json.dumps([training.step, training.minutes]), "key": key}
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def restore(path: Path, training: Training, key: str) -> None:
    """Read it back; `SystemExit` if the file belongs to something else."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key:
            raise SystemExit(f"{path} belongs to {metadata['key']}, not {key}: choose another --state, or remove it")
        tensors = {n: file.get_tensor(n) for n in file.keys()}
    for name, part in (("module.", training.module), ("average.", training.average)):
        part.load_state_dict({n.removeprefix(name): t for n, t in tensors.items() if n.startswith(name)})
    states: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, i, entry = name.split(".")
            states.setdefault((int(number), int(i)), {})[entry] = tensor
    for number, optimizer in enumerate(training.optimizers):
        own = {i: state for (n, i), state in states.items() if n == number}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": own})
    training.step, training.minutes = json.loads(metadata["progress"])
