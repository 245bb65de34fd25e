"""Where a training runs: device, precision, data file and state folder; and random numbers that do not depend on it."""

import argparse
import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import CACHE, DATA, Artwork


@dataclass(frozen=True)
class Place:
    """Device, precision, the artwork file, and the folder of checkpoints and results."""

    device: str = "cpu"
    bfloat16: bool = False
    data: Path = DATA
    state: Path = CACHE
    workers: int = 0
    """Processes that draw scenes beside the training; 0 draws them in between."""
    graphs: bool = False
    """Replay a network's forward and backward pass as CUDA graphs: small networks wait for their launches."""

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision, if it is on. Graphs keep no casts of weights: each replay must make them anew."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16, cache_enabled=not self.graphs)

    def captured(self, predict: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
        """`predict`, replayed as graphs where the place has them; it must then get inputs of these shapes."""
        if not self.graphs:
            return predict
        predict = torch.cuda.make_graphed_callables(predict, inputs, allow_unused_input=True)
        print("forward and backward pass are replayed as CUDA graphs", flush=True)
        return predict


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options that every command of this folder has."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision")
    parser.add_argument("--data", type=Path, default=DATA, help="the artwork file that world.render writes")
    parser.add_argument("--state", type=Path, default=CACHE, help="folder of checkpoints and results")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes beside the training")
    parser.add_argument("--graphs", action="store_true", help="replay networks as CUDA graphs")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")


def place_of(args: argparse.Namespace) -> Place:
    """The place that the options name; on a GPU float32 products may be rounded to TF32."""
    if args.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    return Place(args.device, args.bfloat16, args.data, args.state, args.workers, args.graphs)


def world_hash(artwork: Artwork) -> str:
    """Of the tables and the artwork: with others, latents and labels would mean something else."""
    return hashlib.sha256("".join((concept_table().hash, scene_words().hash, artwork.hash)).encode()).hexdigest()[:16]


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on all of `key`."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 12_345) % 2**63
    return torch.Generator().manual_seed(seed)


def normal(shape: Sequence[int], g: torch.Generator, device: str | torch.device) -> Tensor:
    """Normal numbers that depend on `g`, drawn on the device."""
    if torch.device(device).type == "cpu":
        return torch.randn(*shape, generator=g)
    own = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=g)))
    return torch.randn(*shape, generator=own, device=device)


def rank() -> int:
    """This process's number; joins the group on first use."""
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank() if distributed.is_initialized() else 0
