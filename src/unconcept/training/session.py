"""A session sets how trainings report progress and where they save their state.

Methods do not need to know it: the caller opens a session around them.

    with training_session(TrainingSession(on_progress=print, folder=Path("out/state"))):
        edit = method.erase(model, request)

After a kill the same lines resume from the last saved state, and give the same edit bit for bit (on a CPU).

In a rehearsal, a method or an attack does a little of each part of its work, to estimate how long all of it would take:
trainings and searches take a few steps, images before them are drawn in one step, and what is left out is added up. The
code that is timed is the method's own, so nothing needs to be told how it works.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.hashing import hash_json
from ..models import ModelView
from ..models.diffusion.callbacks import count_pictures
from ..models.module_view import AnyModel
from .gradient_transforms import GradientTransform
from .options import TrainingOptions

IMAGE_BATCH = 8  # images generated or encoded together
# Of a rehearsal: steps of one training, of which the first one warms up; seconds spent on the steps of one training,
# about; and seconds of steps after which further trainings take none.
_FEWEST_STEPS, _MOST_STEPS, _SECONDS, _ALL_SECONDS = 2, 24, 2.0, 20.0


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of one training."""

    name: str  # of the training; a method may have several
    done: int  # steps
    of: int
    loss: float  # mean of the last steps
    seconds_left: float


@dataclass(frozen=True)
class TrainingStart:
    """A training before its first step, while the model is the student."""

    model: AnyModel
    tensors: Mapping[str, Tensor]  # what is trained, by full name
    gradients: Callable[[int], list[Tensor]]  # of its loss, summed over the given number of its steps


TransformFactory = Callable[[TrainingStart], Sequence[GradientTransform]]


@dataclass
class _Stock:
    """Rows that were made at once, for many steps to use."""

    seconds: float = 0.0
    made: int = 0
    used: int = 0


@dataclass
class Rehearsal:
    """What a rehearsal did, and what it left out."""

    seconds_of_step: float = 0.0
    """Of one sampling step of one picture, measured before."""
    fewest_steps: int = 1
    """In which the model draws."""
    left_out: float = 0.0
    """Estimated seconds of the work that it left out."""
    steps: int = 0
    """Steps of all trainings, taken or left out."""
    taken: int = 0
    """Steps that it took."""
    pictures: int = 0
    """Images that would be drawn before or during the trainings."""
    _step_seconds: float = 0.0  # mean of the last steps
    _spent: float = 0.0
    _stocks: dict[int, _Stock] = field(default_factory=dict)
    _stocking: float = 0.0  # seconds, to be taken from the step in which they fell
    _is_inside: bool = False  # a step

    def take_steps(self, steps: int, take: Callable[[], None]) -> int:
        """Take a few of `steps` steps and return how many; the rest counts as left out.

        A descent inside a step, such as an inner search, takes all its steps: they belong to the step.
        """
        if self._is_inside:
            for _ in range(steps):
                take()
            return steps
        self._stocks.clear()
        times: list[float] = []
        while len(times) < min(steps, _MOST_STEPS) and self._goes_on(times):
            times.append(self._timed(take))
        if times:
            steady = times[1:] or times
            stocked = sum(one.seconds / one.made * one.used / len(times) for one in self._stocks.values() if one.made)
            self._step_seconds = sum(steady) / len(steady) + stocked
            self.left_out += len(times) * stocked  # The stock itself is only begun.
        self.left_out += (steps - len(times)) * self._step_seconds
        self.steps += steps
        self.taken += len(times)
        return len(times)

    def _timed(self, take: Callable[[], None]) -> float:
        """Take one step; return its seconds without those of stocks."""
        begun, self._stocking, self._is_inside = time.perf_counter(), 0.0, True
        try:
            take()
        finally:
            self._is_inside = False
        spent = time.perf_counter() - begun
        self._spent += spent
        return spent - self._stocking

    def _goes_on(self, times: list[float]) -> bool:
        if self._spent > _ALL_SECONDS:
            return not self.taken and not times  # One step at least, if each takes longer.
        return len(times) < _FEWEST_STEPS or sum(times) < _SECONDS

    @contextmanager
    def stocking(self, owner: object, rows: int, times: int) -> Iterator[None]:
        """Inside, one of `times` equal parts of the work is done that makes rows for many steps: each step counts for
        what it uses of them.
        """
        begun = time.perf_counter()
        yield
        spent = time.perf_counter() - begun
        stock = self._stocks.setdefault(id(owner), _Stock())
        stock.seconds += spent * times
        stock.made += rows
        self._stocking += spent

    def use(self, owner: object, rows: int) -> None:
        """Note that a step takes rows of a stock."""
        self._stocks.setdefault(id(owner), _Stock()).used += rows

    def draw(self, count: int, steps: int, draw: Callable[[slice, int], Tensor]) -> Tensor:
        """Draw one of `count` images, in as few steps as possible, to stand for all of them."""
        self.pictures += count
        self.left_out += max(0, count * steps - self.fewest_steps) * self.seconds_of_step
        one = draw(slice(0, 1), self.fewest_steps)
        return one.expand(count, *one.shape[1:]).clone()


@dataclass(frozen=True)
class TrainingSession:
    """Settings of all trainings inside a session. The default saves no state and reports no progress."""

    on_progress: Callable[[TrainingProgress], None] = lambda progress: None  # after every step
    folder: Path | None = None  # for states; None saves none
    seconds: float = 30.0  # between two saved states
    transforms: TransformFactory = lambda start: ()
    """Builds regularisers, which run before the method's own transforms."""
    about: object = None  # plain data that describes the transforms
    teacher: Callable[[AnyModel], AbstractContextManager[None]] = lambda model: nullcontext()
    """Context that is entered around every use of the teacher."""
    options: TrainingOptions = TrainingOptions()
    on_images: Callable[[int, int], None] = lambda done, of: None
    """Called with the images drawn and all of them, while images are drawn before a training."""
    rehearsal: Rehearsal | None = None
    """Makes trainings and searches take a few steps only."""
    augment: Callable[[Tensor, Tensor], Tensor] | None = None
    """Maps latents (b, c, h, w) at timesteps (b,) to the denoiser's input at a step; set by the current training."""


_open: ContextVar[TrainingSession | None] = ContextVar("session", default=None)


@contextmanager
def training_session(given: TrainingSession) -> Iterator[None]:
    """Run the trainings inside the block in the given session."""
    token = _open.set(given)
    try:
        yield
    finally:
        _open.reset(token)


def current_session() -> TrainingSession:
    """Return the innermost open session, or the default one."""
    return _open.get() or TrainingSession()


def draw_or_rehearse(model: ModelView, count: int, steps: int, draw: Callable[[slice, int], Tensor]) -> Tensor:
    """Draw `count` images before a training, a few at once, by `draw(part, steps)`, and report the progress.

    In a rehearsal one of them is drawn, in as few steps as possible, to stand for all.
    """
    here = current_session()
    if here.rehearsal is not None:
        return here.rehearsal.draw(count, steps, draw)
    found, done = [], 0.0

    def tick(pictures: float) -> None:
        nonlocal done
        done += pictures
        here.on_images(int(round(done, 6)), count)

    for begin in range(0, count, IMAGE_BATCH):
        part = slice(begin, min(begin + IMAGE_BATCH, count))
        with count_pictures(model.modules("denoiser"), part.stop - begin, tick):
            found.append(draw(part, steps))
    return torch.cat(found)


@contextmanager
def separate_state_folder(*about: object) -> Iterator[None]:
    """Save states inside the block in a subfolder of their own, named by the hash of `about`, which is plain data."""
    here = current_session()
    with training_session(here if here.folder is None else replace(here, folder=here.folder / hash_json(about)[:12])):
        yield
