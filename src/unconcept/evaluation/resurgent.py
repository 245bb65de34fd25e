"""Looks whether an erased concept comes back after a small benign fine-tune: the attack `resurgence` with the judge's counts around it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..attacks import Case
from ..attacks.resurgence import Resurgence
from ..core.errors import RequestError, require
from ..core.wording import without_names
from ..edits import DenseEdit, Edit, TextMapEdit
from ..models import ModelView
from ..models.open import MOJI
from ..prompts.checks import Check, Sizes, seeded
from .generate import Spec, draw, noise
from .judges import Judge
from .judging import words
from .lore import lore_of_table
from .suites import suites

ELSEWHERE = 1_000  # replicates from here on are nobody's prompts


@dataclass(frozen=True)
class Resurgent:
    """On `moji`, whose judge tells what a picture shows. Small by default: minutes on a laptop."""

    pictures: int = 8  # of the concept, each time
    steps: int = 100  # of the fine-tune
    rank: int = 4  # of its adapters
    seed: int = 0
    spec: Spec = field(default_factory=Spec)

    @property
    def settings(self) -> Mapping[str, Any]:
        told = {"steps": self.steps, "rank": self.rank, "pictures": self.pictures, "seed": self.seed}
        return {"attack": "resurgence", "mode": "lora", **told, "judge": Judge().key}

    def __call__(self, model: ModelView, edit: Edit, concept: str, erased: Sequence[str]) -> dict[str, int | None]:
        """How many of the same pictures show it: by the unedited and the edited model, after the fine-tune, and with the edit put on that anew.

        `erased` are all words in force: captions that name one are not among the pictures of the fine-tune.
        """
        require(model.name == MOJI, f"an audit needs a judge of what pictures show: {model.name} has none here, only {MOJI}", RequestError)
        suite = replace(suites["erase"], sizes=Sizes(self.pictures, 1, seed=self.seed))
        checks = [check for check in suite.checks([concept]) if check.group == "direct"][: self.pictures]
        case = self._case(model, edit, concept, checks, erased)
        *_, last = Resurgence(rank=self.rank, checkpoints=(self.steps,)).search(case)
        tuned = last.inputs[0].weights
        assert tuned is not None
        found: dict[str, int | None] = {"pictures": len(checks), "unedited": self._count(model, checks)}
        with edit.applied(model):
            found["edited"] = self._count(model, checks)
            with tuned.applied(model):
                found["tuned"] = self._count(model, checks)
                with again(model, edit):
                    found["reapplied"] = self._count(model, checks) if isinstance(edit, TextMapEdit) else None
        return found

    def _count(self, model: ModelView, checks: Sequence[Check]) -> int:
        prompts = [check.prompt for check in checks]
        drawn = dict(zip(prompts, draw(model, prompts, self.spec), strict=True))
        return sum(word in check.labels for word, check in zip(words(Judge(), checks, drawn), checks, strict=True))

    def _case(self, model: ModelView, edit: Edit, concept: str, checks: Sequence[Check], erased: Sequence[str]) -> Case:
        """Captions and pictures of the unedited model, from noise that no report uses."""
        lore = lore_of_table(concept)
        captions = tuple(without_names(lore.unrelated, [concept, *erased]))
        require(bool(captions), f"every caption for the fine-tune of {concept!r} names something erased", RequestError)
        prompts = [check.prompt for check in checks]
        return Case(
            model=model,
            edit=edit,
            concept=lore.concept,
            prompts=tuple(prompt.text for prompt in prompts),
            noise=torch.stack([noise(prompt.seed, model.latent_shape) for prompt in prompts]),
            pictures=torch.empty(0),
            examples=torch.empty(0),
            unrelated=(captions, draw(model, [seeded(text, ELSEWHERE) for text in captions], self.spec)),
            seed=self.seed,
        )


@contextmanager
def again(model: ModelView, edit: Edit) -> Iterator[None]:
    """Inside, a map on the text is put once more on the weights as they now are, a fine-tune of the edited ones; other edits are not."""
    if not isinstance(edit, TextMapEdit):
        yield
        return
    live = model.text_maps()
    with torch.no_grad():
        change = DenseEdit({name: edit.delta(name, live[name]) for name in edit.names})
    with change.applied(model) if edit.names else nullcontext():
        yield
