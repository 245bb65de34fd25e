"""A session sets how trainings report progress and where they save their state.

Methods do not need to know it: the caller opens a session around them.

    with training_session(TrainingSession(on_progress=print, folder=Path("out/state"))):
        edit = method.erase(model, request)

After a kill the same lines resume from the last saved state, and give the same edit bit for bit (on a CPU).
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
    """Progress of one training."""

    name: str  # of the training; a method may have several
    done: int  # steps
    of: int
    loss: float  # mean of the last steps
    seconds_left: float


@dataclass(frozen=True)
class TrainingStart:
    """A training before its first step, while the model is the student."""

    model: ModelView
    tensors: Mapping[str, Tensor]  # what is trained, by full name
    gradients: Callable[[int], list[Tensor]]  # of its loss, summed over the given number of its steps


TransformFactory = Callable[[TrainingStart], Sequence[GradientTransform]]


@dataclass(frozen=True)
class TrainingSession:
    """Settings of all trainings inside a session. The default saves no state and reports no progress."""

    on_progress: Callable[[TrainingProgress], None] = lambda progress: None  # after every step
    folder: Path | None = None  # for states; None saves none
    seconds: float = 30.0  # between two saved states
    transforms: TransformFactory = lambda start: ()
    """Builds regularisers, which run before the method's own transforms."""
    about: object = None  # plain data that describes the transforms
    teacher: Callable[[ModelView], AbstractContextManager[None]] = lambda model: nullcontext()
    """Context that is entered around every use of the teacher."""
    options: TrainingOptions = TrainingOptions()
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


@contextmanager
def separate_state_folder(*about: object) -> Iterator[None]:
    """Save states inside the block in a subfolder of their own, named by the hash of `about`, which is plain data."""
    here = current_session()
    with training_session(here if here.folder is None else replace(here, folder=here.folder / hash_json(about)[:12])):
        yield
