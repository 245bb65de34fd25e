"""Learners: what a stranger does with somebody's pictures. They are attacks on the unedited model, which has no edit to
undo and learns the subject of the pictures as a new word, or by adapters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...attacks import Attack, AttackAttempt, AttackCase, attacks
from ...core.concept import KIND_TEMPLATES, Concept
from ...core.errors import SettingsError, require
from ...core.settings import build_settings
from ...models import ModelView
from ...prompts.checks import Prompt
from ...training.images.training_images import take_in_turn
from ..attacks.inputs import AdversarialInput, sample_adversarial
from ..sampling import DrawSpec, initial_noise
from ..worlds import World, recipe_settings

LearnerName = Literal["textual-inversion", "lora"]
LEARNERS: Mapping[LearnerName, str] = {"textual-inversion": "concept-inversion", "lora": "relearning"}
"""The learners by name, with the attack that each is."""
_USUAL: Mapping[LearnerName, Mapping[str, object]] = {  # Where a model has no recipe: diffusers' examples.
    "textual-inversion": {"steps": 3000, "lr": 5e-4, "accumulate": 1},
    "lora": {"steps": 1024, "lr": 1e-4},
}


@dataclass(frozen=True)
class Subject:
    """Pictures of one thing, and the word that shall stand for it."""

    pictures: Tensor
    """(n, 3, h, w) in [0, 1]."""
    concept: Concept
    seed: int = 0

    def captions(self) -> tuple[str, ...]:
        """A caption for each picture: the word in the templates of its kind."""
        forms = [form.format(self.concept.name) for form in KIND_TEMPLATES[self.concept.kind]]
        return tuple(take_in_turn([forms], len(self.pictures)))

    def prompts(self, count: int, first_seed: int) -> list[Prompt]:
        """Prompts for copies, each with a seed of its own."""
        texts = take_in_turn([[form.format(self.concept.name) for form in KIND_TEMPLATES[self.concept.kind]]], count)
        return [Prompt(text, first_seed + i) for i, text in enumerate(texts)]


@dataclass(frozen=True)
class Learner:
    """One way to learn a subject, with its settings."""

    name: LearnerName
    settings: Mapping[str, object]

    @property
    def steps(self) -> int:
        """Steps of training."""
        return self._attack(1).most_steps

    def attack_settings(self, pictures: int) -> dict[str, object]:
        """Settings of the attack that it is, to learn from so many pictures."""
        own = {"pictures": pictures} if self.name == "lora" else {"every": self.settings.get("steps", 1)}
        return {**self.settings, **own}

    def _attack(self, pictures: int) -> Attack:
        info, settings = attacks[LEARNERS[self.name]], self.attack_settings(pictures)
        built: Attack = build_settings(info.settings, settings, f"learner {self.name} setting")
        return built

    def case(self, model: ModelView, subject: Subject, prompts: Sequence[Prompt], spec: DrawSpec) -> AttackCase:
        """What the attack is given."""
        return AttackCase(
            model=model,
            edit=None,
            concept=subject.concept,
            prompts=tuple(prompt.text for prompt in prompts),
            noise=torch.stack([initial_noise(prompt.seed, model.latent_shape) for prompt in prompts]),
            pictures=subject.pictures[:0],
            examples=subject.pictures,
            captions=subject.captions(),
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            seed=subject.seed,
        )

    def copies(self, model: ModelView, subject: Subject, prompts: Sequence[Prompt], spec: DrawSpec) -> Tensor:
        """Learn the subject, and draw pictures (len(prompts), 3, h, w) of it. The model is left as it was."""
        case = self.case(model, subject, prompts, spec)
        last: AttackAttempt | None = None
        for attempt in self._attack(len(subject.pictures)).search(case):
            last = attempt
        assert last is not None
        found = [AdversarialInput(prompt.text, prompt.seed, last.inputs[i]) for i, prompt in enumerate(prompts)]
        return sample_adversarial(model, found, spec)


def require_learner(name: LearnerName, model: ModelView) -> None:
    """Raise `SettingsError` if the attack that a learner is cannot be made on the model's family."""
    info = attacks[LEARNERS[name]]
    message = f"learner {name}: {info.undefined_for(model.family)}"
    require(model.family in info.families, message, SettingsError)


def learner_for(name: LearnerName, world: World, steps: int | None = None, factor: int = 1) -> Learner:
    """A learner with the settings of the model's recipe, or the usual ones; `factor` times as many steps."""
    given = dict(recipe_settings(world, LEARNERS[name])) or dict(_USUAL[name])
    if steps is not None:
        given["steps"] = steps
    whole = Learner(name, given).steps * factor
    return Learner(name, {**given, "steps": _power_of_two(whole) if name == "lora" else whole})


def _power_of_two(steps: int) -> int:
    """The power of two nearest to so many steps: those that the attack takes."""
    lower = 1 << (steps.bit_length() - 1)
    return lower if steps * steps < 2 * lower * lower else 2 * lower
