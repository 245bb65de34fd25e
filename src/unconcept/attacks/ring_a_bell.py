"""Ring-A-Bell: Tsai et al., ICLR 2024, arXiv:2310.10012.

Adds the concept's direction to a prompt in text state space, and finds tokens whose states are near the sum by a
genetic search. It never uses the edited model, so one set of texts serves every edit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.concept import KIND_TEMPLATES
from ..core.errors import require
from ..models import Conditioning, ModelView
from ..models.model_view import SoftPrompts
from ..models.text.vocabulary import pad_ids, special_ids, text_of_ids
from ..prompts.text_matching import GENERAL_WORDS
from ..training.token_search import TokenVocabulary, random_generators
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings

_TEXT_BATCH = 100  # texts encoded at once


@dataclass
class Population:
    """One prompt's population of token ids (m, k), and the best ids so far."""

    ids: Tensor
    rng: torch.Generator
    best: Tensor
    loss: float = float("inf")


@attack(
    "ring-a-bell",
    paper="arXiv:2310.10012",
    rung="text",
    scope="prompt",
    families=("sd1", "sd2", "sdxl"),
    white_box=False,
    place=LadderPlace("text search", teaches=False),
)
@dataclass(frozen=True)
class RingABell:
    """Searches tokens near the prompt plus the concept's direction. Defaults from the authors' notebooks (nudity)."""

    undefined_elsewhere: ClassVar[str] = (
        "it searches CLIP's tokens for the states of all encoders, and T5 and language models read others"
    )

    eta: float = 3.0
    """Strength of the direction; RECE's authors use 0.9 for styles."""
    length: int = 16
    """K, number of free tokens."""
    population: int = 200
    """Texts in a generation."""
    generations: int = 3000
    """Largest number of generations."""
    every: int = 100
    """Generations between attempts (inferred)."""
    mutation: float = 0.25
    """Share of texts that get one random token."""
    crossover: float = 0.5
    """Share of parents that mate."""
    neutral: str | None = None
    """Word that replaces the concept in the texts without it; None: the general word of its kind."""

    def __post_init__(self) -> None:
        require_positive_settings("ring-a-bell", length=self.length, generations=self.generations, every=self.every)
        require(self.population >= 4, f"ring-a-bell: population must be >= 4, got {self.population}")
        shares = self.mutation, self.crossover
        require(
            all(0 <= share <= 1 for share in shares),
            f"ring-a-bell: mutation and crossover must be in [0, 1], got {shares}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.generations

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Search on the unedited text encoder only, as in the paper. The floor is the prompt itself."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        model, direction = case.model, self.direction(case)
        length = min(self.length, model.tokenizer.length - 2)
        allowed = searchable_token_ids(model)
        herds, goals = {}, {}
        for i, rng in random_generators(case.seed, range(len(case.prompts))).items():
            goals[i] = _flat(model.condition([case.prompts[i]]))[0] + self.eta * direction
            ids = allowed[torch.randint(len(allowed), (self.population, length), generator=rng)]
            herds[i] = Population(ids, rng, ids[0])
        for done in range(0, self.generations, self.every):
            left = case.unsolved
            if not left:
                return
            stop = min(done + self.every, self.generations)
            for i in left:
                for generation in range(done, stop):
                    self._evolve(model, herds[i], goals[i], allowed, generation == self.generations - 1)
            inputs = {i: AttackInput(text_of_ids(model.tokenizer, herds[i].best.tolist())) for i in left}
            yield AttackAttempt(stop, inputs, sum(herds[i].loss for i in left) / len(left))

    def direction(self, case: AttackCase) -> Tensor:
        """Return the mean difference of all states between texts with and without the concept, in its kind's templates.

        Differs: the authors write 50 pairs by hand for nudity and drop those whose images do not show it.
        """
        kind = case.concept.kind
        neutral = GENERAL_WORDS[kind] if self.neutral is None else self.neutral
        pairs = [
            (form.format(name), form.format(neutral))
            for form in KIND_TEMPLATES[kind]
            for name in case.concept.all_names
        ]
        return torch.cat([_flat(case.model.condition([a])) - _flat(case.model.condition([b])) for a, b in pairs]).mean(
            0
        )

    def _evolve(self, model: ModelView, herd: Population, goal: Tensor, allowed: Tensor, last: bool) -> None:
        """Score the texts, keep the better half, mate and mutate; the last generation is only scored.

        Differs: the best text is never mutated, so it cannot get lost.
        """
        errors = text_state_errors(model, herd.ids, goal)
        parents = herd.ids[errors.argsort()[: self.population // 2]]
        if float(errors.min()) < herd.loss:
            herd.best, herd.loss = parents[0].clone(), float(errors.min())
        if last:
            return
        rng, (n, k) = herd.rng, parents.shape
        mates = parents[torch.randint(n, (n,), generator=rng)]
        before = torch.arange(k) < torch.randint(1, k + 1, (n, 1), generator=rng)
        pairs = torch.rand(n, generator=rng) < self.crossover
        children = [torch.where(before, one, two)[pairs] for one, two in ((parents, mates), (mates, parents))]
        ids = torch.cat([parents, *children])
        changed = torch.rand(len(ids), generator=rng) < self.mutation
        changed[0] = False
        places = torch.randint(k, (len(ids), 1), generator=rng)
        tokens = allowed[torch.randint(len(allowed), (len(ids), 1), generator=rng)]
        herd.ids = torch.where(changed[:, None], ids.scatter(1, places, tokens), ids)


def searchable_token_ids(model: ModelView) -> Tensor:
    """Return the ids that the search may use: neither special tokens nor id 0, as in the authors' code."""
    found = TokenVocabulary.of(model).is_typable
    found[0] = False
    return found.nonzero()[:, 0]


def text_state_errors(model: ModelView, ids: Tensor, goal: Tensor) -> Tensor:
    """Return the squared distances (m,) of all text states of token ids (m, k) from a goal (l * d,)."""
    rows = pad_ids(model.tokenizer, ids.tolist())
    return torch.cat([(_flat(_read(model, part)) - goal).square().sum(-1).cpu() for part in rows.split(_TEXT_BATCH)])


def _read(model: ModelView, ids: Tensor) -> Conditioning:
    """Encode padded ids with the model's own encoders."""
    at = torch.zeros(len(ids), 1, dtype=torch.long)
    start = torch.tensor(special_ids(model.tokenizer)[0])
    rows = TokenVocabulary.of(model).rows(start)
    return model.condition(SoftPrompts(ids, at, tuple(row.expand(len(ids), 1, -1) for row in rows)))


def _flat(given: Conditioning) -> Tensor:
    """Flatten states and pooled text (SDXL) to one row for each text (b, l * d + p), in float32 or wider."""
    flat = torch.cat([given.states.flatten(1)] + ([] if given.pooled is None else [given.pooled]), 1)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))
