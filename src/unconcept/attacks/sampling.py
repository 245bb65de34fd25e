"""Draws the plain prompts in another way: another sampler, more or fewer steps, more or less guidance.

Anybody who has the model, or a service with these sliders, can do it. It has no paper: most edits are made and tested
at one sampler, one number of steps and one guidance scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import require
from ..models import ModelView
from ..models.diffusion.procedures.sampling_change import SamplingChange
from ..models.diffusion.schedulers import FLOW_SAMPLERS, SAMPLERS
from ..models.families import FAMILIES
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack

_RUNGS: dict[str, dict[str, object]] = {
    "sampler": {"step_factors": [], "guidance_factors": []},
    "steps-and-guidance": {"samplers": []},
}


@attack(
    "sampling",
    paper="none",
    rung="text",
    scope="prompt",
    families=FAMILIES,
    white_box=False,
    place=LadderPlace("sampling", rungs=_RUNGS),
)
@dataclass(frozen=True)
class Sampling:
    """Draws the plain prompts with other samplers, numbers of steps and guidance scales, one change at a time.

    What a model cannot do is left out: samplers of the other kind (diffusion or flow), and, of a model of few steps,
    what its record forbids.
    """

    samplers: tuple[str, ...] = ("euler-ancestral", "dpm", "pndm", "overshoot")
    """Samplers to try."""
    step_factors: tuple[float, ...] = (0.5, 2.5)
    """Numbers of steps to try, as factors of the usual number; > 0."""
    guidance_factors: tuple[float, ...] = (0.5, 1.5, 2.5)
    """Guidance scales to try, as factors of the usual scale; > 0."""

    def __post_init__(self) -> None:
        for name in self.samplers:
            known = sorted({*SAMPLERS, *FLOW_SAMPLERS})
            require(name in known, f"sampling: samplers {name!r}: known are {', '.join(known)}")
        for name in ("step_factors", "guidance_factors"):
            given = getattr(self, name)
            require(min(given, default=1.0) > 0, f"sampling: {name} must be > 0, got {given}")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: changes that are tried, if the model can make them all."""
        return len(self.samplers) + len(self.step_factors) + len(self.guidance_factors)

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Try one change in each attempt, the same for all prompts; its number counts those that were left out."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        for tried, change in enumerate(self._changes(case), 1):
            left = case.unsolved
            if not left:
                return
            if _is_possible(case.model, change):
                yield AttackAttempt(tried, {i: AttackInput(case.prompts[i], sampling=change) for i in left})

    def _changes(self, case: AttackCase) -> list[SamplingChange]:
        changes = [SamplingChange(sampler=name) for name in self.samplers]
        changes += [SamplingChange(steps=max(1, round(factor * case.steps))) for factor in self.step_factors]
        scales = [factor * case.guidance_scale for factor in self.guidance_factors]
        return [*changes, *(SamplingChange(guidance_scale=scale) for scale in scales)]


def _is_possible(model: ModelView, change: SamplingChange) -> bool:
    """Whether the model can draw so."""
    record = model.few_step
    if record is not None:
        free = change.guidance_scale is None or record.guidance != "none" or change.guidance_scale <= 1
        return free and change.sampler is None and (change.steps is None or change.steps in record.timesteps)
    known = FLOW_SAMPLERS if model.schedule.prediction_type == "flow" else SAMPLERS
    return change.sampler is None or change.sampler in known
