"""The one training loop of this folder: AdamW, warm-up and cosine decay, clipping, EMA, resumable from its own file.

Batches are drawn from a generator seeded by (seed, step, rank), so a resumed run sees what an unbroken one would have
seen. Under `torchrun` every process draws its own batch and gradients are averaged: on a CPU two processes of one
thread train faster than one process of two.
"""

import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    lr: float
    seed: int
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    decay: float = 0.01
    save_seconds: float = 180.0

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 2 % of `lr`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = torch.tensor((step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * float(0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.pi * done)))


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on all of `key`."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 12_345) % 2**63
    return torch.Generator().manual_seed(seed)


def rank() -> int:
    """This process's number; joins the group on first use."""
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank() if distributed.is_initialized() else 0


def fit(module: nn.Module, loss: Callable[[torch.Generator], Tensor], plan: Plan, checkpoint: Path) -> nn.Module:
    """Train `module` and return its EMA copy. `loss` draws its own batch from the generator it is given."""
    average = deepcopy(module).requires_grad_(False).eval()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.decay, fused=True)
    first = _load(checkpoint, module, average, optimizer) if checkpoint.exists() else 0
    started = saved = time.monotonic()
    mean = None
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        value = loss(generator(plan.seed, step, rank()))
        optimizer.zero_grad()
        value.backward()
        _average(parameters)
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        _follow(average, module, min(plan.ema, (step + 1) / (step + 10)))
        mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
        if (step + 1) % 100 == 0 and rank() == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(
                f"step {step + 1}/{plan.steps} loss {mean:.4f} {pace:.3f} s/step,"
                f" {(plan.steps - step - 1) * pace / 60:.0f} min left",
                flush=True,
            )
        due = time.monotonic() - saved > plan.save_seconds or step + 1 == plan.steps
        if due and rank() == 0:
            _save(checkpoint, module, average, optimizer, step + 1)
            saved = time.monotonic()
    return average


def _average(parameters: list[nn.Parameter]) -> None:
    if distributed.is_initialized():
        flat = torch.cat([p.grad.flatten() for p in parameters])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, rate: float) -> None:
    pairs = zip(average.parameters(), module.parameters(), strict=True)
    kept, new = map(list, zip(*[(a.data, m.data) for a, m in pairs], strict=True))
    torch._foreach_lerp_(kept, new, 1 - rate)


def _save(path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"module.{n}": t for n, t in module.state_dict().items()}
    tensors |= {f"average.{n}": t for n, t in average.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{n}": t for n, t in state.items()}
    temporary = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, temporary, metadata={"step": str(step)})
    temporary.replace(path)


def _load(path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    states: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys()}
        step = int(file.metadata()["step"])
    module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
    average.load_state_dict({n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")})
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            states.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    print(f"goes on from {path.name} at step {step}", flush=True)
    return step
