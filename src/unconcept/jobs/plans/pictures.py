"""The pictures that a command would draw, store and judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ...evaluation.judging.choice import NOT_JUDGED_NOTE
from ...evaluation.judging.judge import Judge
from ...evaluation.sampling import DrawSpec
from ...evaluation.tasks.edited_model import EditedModel
from ...evaluation.tasks.runner import default_workers
from ...prompts.checks import Prompt
from .plan import PlannedFile, PlannedStep, planned_file
from .timing import DrawTime

_WORKER_START = 5.0  # seconds until a worker process draws (measured)
_PNG_SHARE = 0.6  # of a picture's raw bytes that its PNG takes (measured on moji)


@dataclass(frozen=True)
class DrawingPlan:
    """Pictures to draw and judge, by the model or edit that draws them."""

    spec: DrawSpec
    sides: tuple[tuple[int, DrawTime], ...]
    """How many pictures each model or edit would draw, and how fast."""
    stored: int
    """Pictures that the store has already."""
    judged: int
    judge: Judge | None
    judge_cost: float
    """Seconds for one picture."""
    raw_bytes: int
    """Bytes of a picture without compression."""
    workers: int = 1

    @property
    def count(self) -> int:
        """Pictures to draw."""
        return sum(pictures for pictures, _ in self.sides)

    @property
    def seconds(self) -> float:
        """Seconds to draw them, shared by the workers."""
        whole = sum(timing.seconds(pictures, self.spec.steps) for pictures, timing in self.sides)
        return worker_seconds(whole, ceil(self.count / self.spec.batch_size), self.workers)

    @property
    def png_bytes(self) -> int:
        """Bytes of one picture in a file, about."""
        return png_bytes(self.raw_bytes)

    def steps(self) -> list[PlannedStep]:
        """The steps that draw and judge."""
        have = f"; {self.stored} more are in the store" if self.stored else ""
        batch = self.sides[0][1] if self.sides else DrawTime(1, 0.0, 0.0)
        basis = f"a step of {batch.batch} timed at {batch.step:.2g} s" + (
            f", {self.workers} workers" if self.workers > 1 else ""
        )
        found = [PlannedStep(f"draw {self.count} pictures in {self.spec.steps} steps{have}", self.seconds, basis)]
        if self.judge is None:
            return [*found, PlannedStep(NOT_JUDGED_NOTE)]
        told = f"judge {self.judged} pictures by {self.judge.open().name}"
        return [*found, PlannedStep(told, self.judged * self.judge_cost, f"timed at {self.judge_cost:.2g} s a picture")]

    def store_files(self, store: Path) -> list[PlannedFile]:
        """What would be added to the store."""
        return [planned_file(store / "pictures", self.count * self.png_bytes)] if self.count else []


def stored_prompts(store: Path, subject: EditedModel, spec: DrawSpec, prompts: Sequence[Prompt]) -> int:
    """How many of the prompts' pictures the store has. It is not opened, because that would make it."""
    if not (store / "pictures").is_dir():
        return 0
    keys = [subject.picture_key(spec, prompt) for prompt in prompts]
    return sum((store / "pictures" / key[:2] / f"{key}.png").exists() for key in keys)


def workers_for(pictures: int, device: str, workers: int | None = None) -> int:
    """How many workers a run would start."""
    return workers or default_workers(pictures, device)


def worker_seconds(seconds: float, tasks: int, workers: int) -> float:
    """Seconds of work that several workers share, task by task."""
    count = min(workers, tasks)
    return seconds if count <= 1 else seconds / count + _WORKER_START


def png_bytes(raw: int) -> int:
    """Bytes of a picture's file, about, by those without compression."""
    return round(_PNG_SHARE * raw)
