"""A training that is cut off, as by a power cut."""

from collections.abc import Callable

from unconcept.training import TrainingProgress


class Killed(BaseException):
    """Nothing catches it."""


def dying(at: int, name: str = "") -> Callable[[TrainingProgress], None]:
    """What a session is told by, until so many steps are done: of the training of that name, or of any."""

    def tell(progress: TrainingProgress) -> None:
        if progress.done == at and name in ("", progress.name):
            raise Killed

    return tell
