"""What is left to measure, and about how long it takes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kept import FOLDER, read_rows
from benchmarks.kept_trials import kept_suite
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant
    from unconcept.jobs.evaluate_job import EvaluationRun

TIMED = 8  # pictures in the batch that is timed


@dataclass(frozen=True)
class Work:
    """Edits of one variant that are to be made and asked."""

    suite: str
    variant: "Variant"
    requests: tuple[tuple[str, ...], ...]
    limit: int | None = None
    """Prompts in a group at most."""
    model: str = DEFAULT_MODEL
    """Embedded model that is edited."""
    seed: int = 0
    """Draws every prompt from other noise."""
    folder: Path = FOLDER
    """Where its trials are kept."""

    @property
    def place(self) -> str:
        """Name of its folder while it is under way."""
        return self.suite if not self.seed else f"{self.suite}-{self.seed}"

    def run(self, out: Path, max_minutes: float | None) -> "EvaluationRun":
        """As an evaluation."""
        from unconcept.jobs.evaluate_job import EvaluationRun

        return EvaluationRun(
            tuple(dict.fromkeys(name for names in self.requests for name in names)),
            out,
            variants=(self.variant,),
            joint_requests=self.requests,
            suite=self.suite,
            limit=self.limit,
            seed=self.seed,
            max_minutes=max_minutes,
            overwrite=True,
            model=self.model,
        )

    @property
    def prompts(self) -> list:
        """Of each edit, once."""
        suite = kept_suite(self.suite, self.limit, self.seed)
        return [prompt for names in self.requests for prompt in suite.prompts(names)]


def estimate(todo: Sequence[Work]) -> str:
    """Edits, pictures and hours of what is left on one model, by a short timing; edits by what their tunings took.

    Searches of attacks are not in it: `unconcept attack --dry-run` times them.
    """
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.runner import default_workers
    from unconcept.evaluation.worlds import world_of
    from unconcept.jobs.plans.timing import time_drawing

    if not todo:
        return "Nothing is left to measure."
    pictures = sum(len(work.prompts) for work in todo) + len({prompt for work in todo for prompt in work.prompts})
    (model,) = {work.model for work in todo}
    view, spec = EditedModel(model).base(), world_of(model).draw_spec(None)
    workers = default_workers(pictures, str(view.device))
    drawing = time_drawing(view, spec, TIMED, workers=workers).seconds(pictures, spec.steps) / workers
    making = {work.variant.label: seconds_of_edit(work.variant.method) for work in todo}
    known = sum(making[work.variant.label] * len(work.requests) for work in todo)
    unknown = [label for label, seconds in making.items() if not seconds]
    edits = sum(len(work.requests) for work in todo)
    text = (
        f"To measure: {edits} edits of {len(making)} variants, some {pictures:,} pictures on {workers} cores:"
        f" {drawing / 3600:.2f} hours of drawing, {known / 3600:.2f} hours of making edits by their tunings"
    )
    return f"{text}; not known: {', '.join(unknown)}." if unknown else f"{text}."


def seconds_of_edit(method: str) -> float:
    """Mean seconds of the method's kept tuning edits; 0 if there are none."""
    _, rows = read_rows(FOLDER / "tuning" / f"{method}.json")
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return statistics.mean(known) if known else 0.0
