"""Where a training keeps its state and whom it tells how far it is.

Methods know nothing of it: the caller opens a session around them.

    with training_session(TrainingSession(tell=print, folder=Path("out/state"))):
        edit = method.erase(model, request)

The same lines again after a kill go on where the last kept state was, and end in the same edit bit for bit (on a CPU).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..core.hashing import hash_json
from ..models import ModelView
from .gradient_transforms import GradientTransform
from .options import TrainingOptions


@dataclass(frozen=True)
class TrainingProgress:
    """How far one training is."""

    name: str  # of the training: a method may have several
    done: int  # steps
    of: int
    loss: float  # mean of the last steps
    seconds_left: float


@dataclass(frozen=True)
class TrainingStart:
    """A training before its first step, inside `student`."""

    model: ModelView
    tensors: Mapping[str, Tensor]  # what is trained, by full name
    gradients: Callable[[int], list[Tensor]]  # of its loss, summed over so many of its steps


TransformFactory = Callable[[TrainingStart], Sequence[GradientTransform]]


@dataclass(frozen=True)
class TrainingSession:
    """Given by whoever calls a method. The default keeps nothing and tells nobody."""

    on_progress: Callable[[TrainingProgress], None] = lambda progress: None  # after every step
    folder: Path | None = None  # where states are kept; None: nowhere
    seconds: float = 30.0  # between two states
    transforms: TransformFactory = lambda start: ()
    """Regularisers that are no method's own: they stand before its own transforms."""
    about: object = None  # plain data that says what the rules are
    teacher: Callable[[ModelView], AbstractContextManager[None]] = lambda model: nullcontext()
    """Entered wherever a teacher is asked."""
    options: TrainingOptions = TrainingOptions()
    augment: Callable[[Tensor, Tensor], Tensor] | None = None
    """What latents (b, c, h, w) at timesteps (b,) become before a step shows them to the denoiser; set by the training
    that runs."""


_open: ContextVar[TrainingSession | None] = ContextVar("session", default=None)


@contextmanager
def training_session(given: TrainingSession) -> Iterator[None]:
    """Inside, trainings run in the given session."""
    token = _open.set(given)
    try:
        yield
    finally:
        _open.reset(token)


def current_session() -> TrainingSession:
    """The innermost open session, or the default."""
    return _open.get() or TrainingSession()


@contextmanager
def separate_state_folder(*about: object) -> Iterator[None]:
    """Inside, trainings keep their states where those that are about something else do not lie in their way.

    `about` is plain data.
    """
    here = current_session()
    with training_session(here if here.folder is None else replace(here, folder=here.folder / hash_json(about)[:12])):
        yield
