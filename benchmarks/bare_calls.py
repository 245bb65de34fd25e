"""A training's step against the calls of the denoiser that it needs: `python -m benchmarks.bare_calls ace
eraseanything=moji-flow`.

CPU seconds of one thread, the mean of the steps after the first, sampling of x_t included. What is left when the
denoiser's forward passes and the gradient are taken off is the method's and the engine's.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import torch

from unconcept.core.recipe import load_recipe
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.erasing.request_defaults import request_from_table
from unconcept.methods import methods
from unconcept.models import ModelView, open_model
from unconcept.models.hooks.forward import remove_on_exit
from unconcept.training import TrainingSession, training_session
from unconcept.worlds.registry import worlds
from unconcept.worlds.table import concept_table

CONCEPT = "guitar"  # A tune concept.


@dataclass
class BareSeconds:
    """CPU seconds so far of a denoiser's forward passes and of gradients."""

    spent: float = 0.0
    begun: float = 0.0

    def start(self, *_: object) -> None:
        self.begun = time.process_time()

    def stop(self, *_: object) -> None:
        self.spent += time.process_time() - self.begun


@contextmanager
def bare_seconds(model: ModelView) -> Iterator[BareSeconds]:
    """Inside, forward passes and gradients are timed."""
    denoiser, found, plain = model.modules("denoiser"), BareSeconds(), torch.autograd.grad

    def timed(*args: object, **named: object) -> object:
        found.start()
        try:
            return plain(*args, **named)
        finally:
            found.stop()

    hooks = [denoiser.register_forward_pre_hook(found.start), denoiser.register_forward_hook(found.stop)]
    with remove_on_exit(hooks), patch.object(torch.autograd, "grad", timed):
        yield found


def step_seconds(name: str, world: str, steps: int) -> tuple[float, float]:
    """A step's seconds, and those of its bare calls."""
    model = open_model(world, device="cpu")
    model.modules("denoiser")  # Builds the networks.
    request = request_from_table(RequestSpec((CONCEPT,)), concept_table()).request
    settings = dict(load_recipe(worlds[world].recipes + name).settings) | {"iterations": steps}
    method, ends = build_settings(methods[name].settings, settings), list[tuple[float, float]]()
    with (
        bare_seconds(model) as bare,
        training_session(TrainingSession(lambda _: ends.append((time.process_time(), bare.spent)))),
    ):
        method.erase(model, request)
    pairs = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(ends)]
    return statistics.mean(whole for whole, _ in pairs), statistics.mean(own for _, own in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", help="names, each with =WORLD if it is not moji")
    parser.add_argument("--steps", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for each in args.methods:
        name, _, world = each.partition("=")
        whole, bare = step_seconds(name, world or "moji", args.steps)
        print(f"| {name} | {world or 'moji'} | {whole:.3f} | {bare:.3f} | {whole / bare:.2f} |", flush=True)


if __name__ == "__main__":
    main()
