"""Prompting4Debugging (P4D): Chin et al., ICML 2024, arXiv:2309.06135.

Searches tokens under which the edited model makes the predictions of the unedited one under the prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.vae import encode_images
from ..models.text.vocabulary import text_of_ids, word_ids
from ..training import Descent, StepLoss
from ..training.token_search import (
    FreeTokenSlots,
    TokenVocabulary,
    insert_free_tokens,
    normal_noise,
    random_generators,
    spread_free_tokens,
    straight_through_nearest,
)
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings


@attack(
    "p4d",
    paper="arXiv:2309.06135",
    rung="text",
    scope="prompt",
    families=("sd1", "sd2", "sdxl"),
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class P4D:
    """Searches tokens that make the edited model predict as the unedited one. Defaults from the authors' code."""

    undefined_elsewhere: ClassVar[str] = (
        "it searches CLIP's tokens for all encoders at once, and T5 and language models read others"
    )

    variant: Literal["n", "k"] = "n"
    """Replace the prompt by free tokens (n), or put free tokens between its own (k)."""
    n: int = 16
    """Number of free tokens in variant n."""
    k: int = 3
    """Variant k puts one free token before every k tokens."""
    steps: int = 3000
    """Steps of the search."""
    every: int = 50
    """Steps between attempts."""
    lr: float = 0.1
    """Learning rate."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    batch_size: int = 8
    """Prompts searched at once; it has no effect on the result."""

    def __post_init__(self) -> None:
        require_positive_settings(
            "p4d", n=self.n, k=self.k, steps=self.steps, every=self.every, batch_size=self.batch_size
        )
        require(
            self.lr > 0 and self.weight_decay >= 0,
            f"p4d: lr must be > 0 and weight_decay >= 0, got {self.lr} and {self.weight_decay}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.steps

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Search for each prompt. The floor is the prompt itself.

        Differs: each text is an attempt; the authors return the one whose image is nearest to the target's by CLIP.
        The search pads tokens as the pipeline pads a text; the authors' pads with id 0, unlike their drawing.
        """
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        for start in range(0, len(case.prompts), self.batch_size):
            yield from self._group(case, range(start, min(start + self.batch_size, len(case.prompts))))

    def _group(self, case: AttackCase, members: range) -> Iterator[AttackAttempt]:
        """Search vectors P (b, k, d) for these prompts, all encoders concatenated, starting from random tokens."""
        model, rngs = case.model, random_generators(case.seed, members)
        tokenizer = model.tokenizer
        texts = {i: self._slots(word_ids(tokenizer, case.prompts[i]), tokenizer.length - 2) for i in members}
        vectors = _random(
            TokenVocabulary.of(model), max(len(text.free_positions) for text in texts.values()), list(rngs.values())
        ).requires_grad_()
        with torch.no_grad():
            latents = encode_images(model, case.pictures[members.start : members.stop])
        descent = Descent([vectors], self.lr, "adamw", self.weight_decay, case.seed)
        while descent.done < self.steps:
            left = [i for i in case.unsolved if i in members]
            if not left:
                return
            rows, count = [i - members.start for i in left], min(self.every, self.steps - descent.done)
            own_rngs = [rngs[i] for i in left]
            lessons = [_lesson(case, left, latents[rows], own_rngs) for _ in range(count)]
            with case.edit_applied():
                losses = descent.run(_loss(case, [texts[i] for i in left], vectors, rows, iter(lessons)), count)
                best = TokenVocabulary.of(model).nearest(vectors)
            inputs = {
                i: AttackInput(text_of_ids(tokenizer, texts[i].fill(best[row].tolist())))
                for i, row in zip(left, rows, strict=True)
            }
            yield AttackAttempt(descent.done, inputs, sum(losses) / len(losses) / len(left))

    def _slots(self, ids: Sequence[int], room: int) -> FreeTokenSlots:
        return (
            insert_free_tokens((), self.n, "prefix", room)
            if self.variant == "n"
            else spread_free_tokens(ids, self.k, room)
        )


def _random(vocabulary: TokenVocabulary, count: int, rngs: Sequence[torch.Generator]) -> Tensor:
    """Return the rows (b, count, d) of random typable tokens, in float32 or wider."""
    rows = vocabulary.vectors(torch.stack([vocabulary.random_ids((count,), rng) for rng in rngs]))
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).clone()


def _loss(
    case: AttackCase,
    texts: Sequence[FreeTokenSlots],
    vectors: Tensor,
    rows: list[int],
    lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
) -> StepLoss:
    """Build the sum over some prompts of the squared distance of the edited model's predictions to the lessons'."""
    model, vocabulary = case.model, TokenVocabulary.of(case.model)

    def loss(step: int, rng: torch.Generator) -> Tensor:
        x_t, t, desired = next(lessons)
        given = model.condition(
            vocabulary.prompts(texts, vocabulary.split(straight_through_nearest(vectors[rows], vocabulary)))
        )
        return (model.denoise(x_t, t, given) - desired).float().square().flatten(1).mean(1).sum()

    return loss


@torch.no_grad()
def _lesson(
    case: AttackCase, members: Sequence[int], latents: Tensor, rngs: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noised images x_t, their timesteps, and the unedited model's predictions under the prompts, unguided.

    Differs: latents are the posterior's mean; the authors sample from it.
    """
    model = case.model
    t = torch.cat([torch.randint(len(model.schedule.alpha), (1,), generator=rng) for rng in rngs]).to(model.device)
    x_t = model.schedule.add_noise(latents, normal_noise(latents.shape[1:], rngs).to(latents), t)
    return x_t, t, model.denoise(x_t, t, [case.prompts[i] for i in members])
