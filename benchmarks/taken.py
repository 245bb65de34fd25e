"""What a training takes: CPU seconds, those of its trajectories apart, and the bytes of all tensors when there are most
of them.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from unconcept.models import ModelView
from unconcept.models.hooks.forward import remove_on_exit
from unconcept.training.trajectories import GuidedSampler


@dataclass(frozen=True)
class Taken:
    """What a training took."""

    whole: float  # CPU seconds, of everything
    update: float  # of one step, x_t given, by the median
    tensors: int  # bytes of the denoiser, its copies, gradients and optimizer


@dataclass
class Trajectories:
    """CPU seconds of trajectories so far, and whether one is under way."""

    seconds: float = 0.0
    is_drawn: bool = False


@contextmanager
def timed_trajectories() -> Iterator[Trajectories]:
    """Inside, trajectories are timed."""
    found, plain = Trajectories(), GuidedSampler.denoise_steps

    def drawn(walk: GuidedSampler, *args: object, **named: object) -> Tensor:
        begun, found.is_drawn = time.process_time(), True
        try:
            return plain(walk, *args, **named)
        finally:
            found.is_drawn = False
            found.seconds += time.process_time() - begun

    with patch.object(GuidedSampler, "denoise_steps", drawn):
        yield found


@dataclass
class Gauge:
    """Filled while a training runs."""

    trajectories: Trajectories
    tensors: int = 0  # bytes at the last of the optimizer's steps, when there are gradients too
    done: int = field(default=0, repr=False)


@contextmanager
def gauged(model: ModelView, steps: int) -> Iterator[Gauge]:
    """Inside, a training of so many steps is measured. What is there beforehand does not count, the denoiser aside."""
    before = alive() - sum(p.numel() * p.element_size() for p in model.modules("denoiser").parameters())
    with timed_trajectories() as trajectories:
        gauge = Gauge(trajectories)

        def stepping(*_: object) -> None:
            gauge.done += 1
            gauge.tensors = alive() - before if gauge.done == steps else gauge.tensors

        with remove_on_exit([register_optimizer_step_pre_hook(stepping)]):
            yield gauge


def alive() -> int:
    """Bytes of all tensors there are, and of their gradients."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    found += [thing.grad for thing in found if thing.is_leaf and thing.grad is not None]
    return sum({thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes() for thing in found}.values())
