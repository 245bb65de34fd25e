"""A training's step against the bare denoiser calls that it needs, on `moji` and on one thread: `python -m
benchmarks.steps --methods ant,doco`.

The calls of a step are recorded, and replayed by themselves: those without a gradient as they were, those with one with
their way back to what is trained. Seconds are CPU seconds, medians; trajectories are left out of both.
"""

import argparse
import statistics
import sys
import time
import tomllib
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import torch

from unconcept.core.recipe import load_recipe
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import methods
from unconcept.models import Conditioning, ModelView, open_model
from unconcept.training import TrainingSession, training_session
from unconcept.training.trainables import Trainable
from unconcept.training.trajectories import GuidedSampler

REPLAYS = 9


class Recorder:
    """The calls of the last step, the seconds that steps spent on trajectories, and when each step ended."""

    def __init__(self, model: ModelView) -> None:
        self.model, self.plain = model, model.denoise
        self.calls: list[tuple[torch.Tensor, torch.Tensor, Conditioning, bool]] = []
        self.last = self.calls
        self.drawing, self.is_drawing, self.ends = 0.0, False, list[float]()
        self.trained: Trainable | None = None
        self.is_joined = False

    def denoise(self, x: torch.Tensor, t: torch.Tensor, texts: Conditioning) -> torch.Tensor:
        if not self.is_drawing:
            self.calls.append((x.detach(), t, texts, torch.is_grad_enabled()))
        return self.plain(x, t, texts)

    def denoise_steps(self, walk: GuidedSampler, *given: object) -> torch.Tensor:
        begun, self.is_drawing = time.process_time(), True
        try:
            return DENOISE_STEPS(walk, *given)
        finally:
            self.is_drawing = False
            self.drawing += time.process_time() - begun

    def tell(self, progress: object) -> None:
        self.ends.append(time.process_time() - self.drawing)
        self.last, self.calls = self.calls, []

    def train(
        self, plain: Callable[..., list[float]], trained: Trainable, *given: object, **named: object
    ) -> list[float]:
        self.trained, self.is_joined = trained, given[1].join is not None
        self.ends = []
        found = plain(trained, *given, **named)
        self.seconds = statistics.median(after - before for before, after in pairwise(self.ends))
        self.bare = statistics.median(self.replayed() for _ in range(REPLAYS))
        return found

    def replayed(self) -> float:
        """Seconds of the calls of the last step alone."""
        assert self.trained is not None
        params, begun, said = list(self.trained.tensors.values()), time.process_time(), []
        with self.trained.student():
            for x, t, texts, has_gradient in self.last:
                with torch.set_grad_enabled(has_gradient):
                    out = self.plain(x, t, texts)
                said += [out.square().mean()] if has_gradient else []
            for loss in said if self.is_joined else [torch.stack(said).sum()]:
                torch.autograd.grad(loss, params, allow_unused=True)
        return time.process_time() - begun


DENOISE_STEPS = GuidedSampler.denoise_steps


def measured(model: ModelView, name: str, settings: dict[str, object]) -> Recorder:
    """Train on the tune concept guitar for a few steps."""
    request, kind = resolve_request(RequestSpec(("guitar",)), "moji").request, methods[name].settings
    method = build_settings(kind, {**load_recipe(f"moji-{name}").settings, **settings})
    module, watch = sys.modules[kind.__module__], Recorder(model)
    plain = module.train
    with (
        patch.object(model, "denoise", watch.denoise),
        patch.object(GuidedSampler, "denoise_steps", lambda walk, *given: watch.denoise_steps(walk, *given)),
        patch.object(module, "train", lambda *given, **named: watch.train(plain, *given, **named)),
        training_session(TrainingSession(watch.tell)),
    ):
        method.erase(model, request)
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", required=True, help="separated by commas")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="NAME=VALUE of every one, in TOML")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(device="cpu")
    print(
        "| method | calls of a step, rows | step, CPU s | bare calls, CPU s | ratio |\n| --- | --- | --- | --- | --- |"
    )
    for name in args.methods.split(","):
        found = measured(model, name, tomllib.loads("\n".join(args.settings)))
        calls = ", ".join(f"{len(x)}{' and back' if back else ''}" for x, _, _, back in found.last)
        print(f"| {name} | {calls} | {found.seconds:.3f} | {found.bare:.3f} | {found.seconds / found.bare:.2f} |")


if __name__ == "__main__":
    main()
