"""A training's step against the calls of the denoiser that it needs: `python -m benchmarks.bare_calls ace
eraseanything=moji-flow`.

CPU seconds of one thread, medians of the steps after the first, trajectories left out. What is left when the denoiser's
forward passes and the gradient are taken off is the method's and the engine's.
"""

import argparse
import statistics
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import torch

from benchmarks.taken import Trajectories, timed_trajectories
from unconcept.core.recipe import load_recipe
from unconcept.core.request import Request, RequestSpec
from unconcept.core.settings import build_settings, default_settings
from unconcept.erasing.request_defaults import request_from_table
from unconcept.methods import methods
from unconcept.methods.registry import Method
from unconcept.models import ModelView, open_model
from unconcept.models.hooks.forward import remove_on_exit
from unconcept.training import TrainingSession, training_session
from unconcept.worlds.registry import worlds
from unconcept.worlds.table import concept_table

CONCEPT = "guitar"  # A tune concept.


@dataclass
class BareSeconds:
    """CPU seconds so far of a denoiser's forward passes and of gradients, those of trajectories left out."""

    trajectories: Trajectories
    spent: float = 0.0
    begun: float = 0.0

    def start(self, *_: object) -> None:
        self.begun = time.process_time()

    def stop(self, *_: object) -> None:
        if not self.trajectories.is_drawn:
            self.spent += time.process_time() - self.begun


@contextmanager
def bare_seconds(model: ModelView) -> Iterator[BareSeconds]:
    """Inside, forward passes and gradients are timed."""
    denoiser, plain = model.modules("denoiser"), torch.autograd.grad
    with timed_trajectories() as trajectories:
        found = BareSeconds(trajectories)

        def timed(*args: object, **named: object) -> object:
            found.start()
            try:
                return plain(*args, **named)
            finally:
                found.stop()

        hooks = [denoiser.register_forward_pre_hook(found.start), denoiser.register_forward_hook(found.stop)]
        with remove_on_exit(hooks), patch.object(torch.autograd, "grad", timed):
            yield found


def step_seconds(model: ModelView, method: Method, request: Request) -> tuple[float, float]:
    """A step's seconds, and those of its bare calls."""
    whole, own = list[float](), list[float]()

    def tell(_: object) -> None:
        whole.append(time.process_time() - bare.trajectories.seconds)
        own.append(bare.spent)

    with bare_seconds(model) as bare, training_session(TrainingSession(tell)):
        method.erase(model, request)
    first, second = (statistics.median(after - before for before, after in pairwise(at)) for at in (whole, own))
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", help="names, each with =WORLD if it is not moji")
    parser.add_argument(
        "--steps", type=int, default=9, help="of methods that count steps; of others set what bounds them"
    )
    parser.add_argument("--set", dest="settings", action="append", default=[], help="NAME=VALUE of every one, in TOML")
    args = parser.parse_args()
    torch.set_num_threads(1)
    request = request_from_table(RequestSpec((CONCEPT,)), concept_table()).request
    print("| method | model | step, CPU s | bare calls, CPU s | ratio |\n| --- | --- | --- | --- | --- |")
    for each in args.methods:
        name, _, world = each.partition("=")
        model = open_model(world or "moji", device="cpu")
        settings = load_recipe(worlds[world or "moji"].recipes + name).settings
        kind = methods[name].settings
        budget = {"iterations": args.steps} if "iterations" in default_settings(kind) else {}
        settings = {**settings, **budget, **tomllib.loads("\n".join(args.settings))}
        whole, bare = step_seconds(model, build_settings(kind, settings), request)
        print(f"| {name} | {world or 'moji'} | {whole:.3f} | {bare:.3f} | {whole / bare:.2f} |", flush=True)


if __name__ == "__main__":
    main()
