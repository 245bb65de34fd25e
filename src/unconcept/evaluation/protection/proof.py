"""Proves how far a protection reaches: learners learn from clean and from protected pictures, from the same seeds, and
their copies are recognised or not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.output_folder import atomic_file
from ...metrics.intervals import Rate, wilson
from ...models.images import read_picture
from ...prompts.checks import Prompt
from ...report.images import to_image
from ..sampling import DrawSpec, draw_prompts, spec_for
from ..tasks.edited_model import EditedModel
from ..worlds import world_of
from .adaptive import CLEANINGS, MORE_STEPS
from .learners import LEARNERS, Learner, LearnerName, Subject, learner_for
from .recognition import Recogniser

CLEAN, PROTECTED = "clean", "protected"
NOT_COPIED, UNLEARNED = "none: the pictures themselves", "none: not learned"
COPY_SEED = 1_000_000  # of the first copy; published figures are on seeds from here on
_OTHER_SEED = 2_000_000  # of what the model draws before it learns: reference pictures, which are no copies


@dataclass(frozen=True)
class Arm:
    """One set of pictures that a learner is given, the model that learns them, and for how long."""

    pictures: str
    given: Tensor
    """(n, 3, h, w) in [0, 1]."""
    model: EditedModel
    factor: int = 1
    """Times as many steps as usual."""

    @property
    def name(self) -> str:
        """What distinguishes it in a report."""
        return self.pictures


@dataclass(frozen=True)
class ProofRow:
    """What one learner made of one set of pictures."""

    learner: str
    pictures: str
    steps: int
    recognised: Rate
    likeness: float
    """Mean of the largest cosine with a clean picture."""

    def data(self) -> dict[str, Any]:
        """The row as plain data."""
        return {**vars(self), "recognised": vars(self.recognised)}


@dataclass(frozen=True)
class ProofPlan:
    """What is learned, by which learners, and how many copies are drawn."""

    clean: Subject
    protected: Mapping[str, Tensor]
    """Sets of protected pictures (n, 3, h, w) by name, in the order of the clean ones. Adaptive learners clean the
    first."""
    model: EditedModel
    learners: Sequence[LearnerName]
    copies: int
    steps: int | None = None
    """Steps of each learner; None: those of its recipe."""
    adaptive: bool = False
    other_base: str | None = None
    """Another model for the learners."""

    def arms(self) -> Iterator[Arm]:
        """The sets of pictures, the plain ones first."""
        yield Arm(CLEAN, self.clean.pictures, self.model)
        for name, pictures in self.protected.items():
            yield Arm(name, pictures, self.model)
        first, given = next(iter(self.protected.items()))
        if self.adaptive:
            for name, cleaning in CLEANINGS.items():
                cleaned = cleaning(self.model.base(), given, self.clean.seed)
                yield Arm(f"{first}, {name}", cleaned, self.model)
            yield Arm(f"{CLEAN}, {MORE_STEPS} times the steps", self.clean.pictures, self.model, MORE_STEPS)
            yield Arm(f"{first}, {MORE_STEPS} times the steps", given, self.model, MORE_STEPS)
        if self.other_base is not None:
            other, title = replace(self.model, model=self.other_base), name_without_folders(self.other_base)
            yield Arm(f"{CLEAN}, learned by {title}", self.clean.pictures, other)
            yield Arm(f"{first}, learned by {title}", given, other)

    @property
    def factors(self) -> list[int]:
        """Times as many steps as usual, of each of the arms; it cleans no picture to tell."""
        adaptive = [*[1] * len(CLEANINGS), MORE_STEPS, MORE_STEPS] if self.adaptive else []
        return [1, *[1] * len(self.protected), *adaptive, *([1, 1] if self.other_base is not None else [])]

    def learner(self, name: LearnerName, arm: Arm) -> Learner:
        """A learner by the recipe of the model that learns, or else of the model that the pictures are protected on."""
        worlds = [world_of(one.model) for one in (arm.model, self.model)]
        known = [world for world in worlds if world.recipe(LEARNERS[name]) is not None]
        return learner_for(name, (known or worlds)[0], self.steps, arm.factor)

    def spec(self, model: EditedModel) -> DrawSpec:
        """How a model draws copies."""
        return spec_for(model.model)

    def prompts(self) -> list[Prompt]:
        """The prompts of the copies."""
        return self.clean.prompts(self.copies, COPY_SEED)


def name_without_folders(model: str) -> str:
    """A model's name for pages that are published: they name no folder of a machine."""
    path = Path(model).expanduser()
    return path.name if path.exists() else model


def unlearned_pictures(plan: ProofPlan, seed: int) -> Tensor:
    """What the model draws under the prompts of the copies before it learns anything (n, 3, h, w)."""
    prompts = [Prompt(one.text, seed + i) for i, one in enumerate(plan.prompts())]
    return draw_prompts(plan.model.base(), prompts, plan.spec(plan.model))


def prove(
    plan: ProofPlan,
    recogniser: Callable[[Tensor], Recogniser],
    folder: Path,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> list[ProofRow]:
    """Learn, draw and recognise. `recogniser` is made from what the model draws before it learns anything.

    Copies are written below `folder`, one folder a learner and set; those that are there are not drawn again.
    """
    judge = recogniser(unlearned_pictures(plan, _OTHER_SEED))
    floor = unlearned_pictures(plan, COPY_SEED)
    rows = [_row(NOT_COPIED, pictures, 0, given, judge) for pictures, given in plan.protected.items()]
    rows.append(_row(UNLEARNED, "none", 0, floor, judge))
    arms = list(plan.arms())
    work = [(name, arm) for name in plan.learners for arm in arms]
    for done, (name, arm) in enumerate(work):
        tell(done, len(work))
        learner = plan.learner(name, arm)
        copies = _kept_copies(plan, learner, arm, folder / f"{name}, {arm.name}".replace(" ", "-").replace("/", "-"))
        rows.append(_row(name, arm.name, learner.steps, copies, judge))
    tell(len(work), len(work))
    return rows


def _kept_copies(plan: ProofPlan, learner: Learner, arm: Arm, place: Path) -> Tensor:
    """The copies that an earlier run wrote, or new ones."""
    files = [place / f"{i:03d}.png" for i in range(plan.copies)]
    if not all(file.exists() for file in files):
        subject = replace(plan.clean, pictures=arm.given)
        copies = learner.copies(arm.model.base(), subject, plan.prompts(), plan.spec(arm.model))
        place.mkdir(parents=True, exist_ok=True)
        for file, picture in zip(files, copies, strict=True):
            with atomic_file(file) as part:
                to_image(picture).save(part, "PNG")
    return torch.stack([read_picture(file) for file in files])


def _row(learner: str, pictures: str, steps: int, copies: Tensor, judge: Recogniser) -> ProofRow:
    found = judge.recognised(copies)
    rate = wilson(int(found.sum()), len(found))
    return ProofRow(learner, pictures, steps, rate, float(judge.likeness(copies).mean()))


def verdict_of(rows: Sequence[ProofRow], name: str = PROTECTED) -> list[str]:
    """One sentence for each learner: how many copies of the subject fewer; and what cleaning the pictures gets back."""
    shares: Mapping[tuple[str, str], Rate] = {(row.learner, row.pictures): row.recognised for row in rows}
    told = []
    for learner in dict.fromkeys(row.learner for row in rows):
        clean, protected = (shares.get((learner, pictures)) for pictures in (CLEAN, name))
        if clean is None or protected is None:
            continue
        if not clean.value:
            told.append(
                f"{learner}: no copy of the clean pictures is recognised, so nothing is shown: train it longer."
            )
            continue
        fall = 1 - protected.value / clean.value
        told.append(
            f"{learner}: copies recognised, from clean pictures {clean.value:.0%}, from protected ones"
            f" {protected.value:.0%}: {'fewer' if fall > 0 else 'not fewer'} by {abs(fall):.0%} of them."
        )
        best = [row for row in rows if row.learner == learner and row.pictures.startswith(f"{name},")]
        if best:
            most = max(best, key=lambda row: row.recognised.value)
            told.append(
                f"{learner}, against protected pictures at best: {most.recognised.value:.0%} ({most.pictures})."
            )
    return told
