"""UnlearnDiffAtk: Zhang et al., ECCV 2024, arXiv:2310.11868.

Searches a few tokens which, put into the prompt, make the edited model denoise an image of the concept. The model's own
loss is the classifier, so no other network is needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.vae import encode_images
from ..models.text.vocabulary import text_of_ids, word_ids
from ..training import Descent, StepLoss
from ..training.token_search import (
    FreeTokenSlots,
    TokenPlacement,
    TokenVocabulary,
    denoising_error,
    insert_free_tokens,
    normal_noise,
    project_to_simplex,
    random_generators,
    sample_tokens,
)
from .registry import AttackAttempt, AttackCase, AttackInput, attack, require_positive_settings


@attack("unlearn-diff-atk", paper="arXiv:2310.11868", rung="text", scope="prompt", families=("sd1", "sd2", "sdxl"))
@dataclass(frozen=True)
class UnlearnDiffAtk:
    """Searches tokens that make the edited model denoise an image of the concept. Defaults of the authors' configs."""

    tokens: int = 3
    """k, number of tokens: 3 for styles and objects, 5 for nudity."""
    place: TokenPlacement = "prefix"
    """Position of the tokens in the prompt."""
    timesteps: int = 50
    """Number of timesteps, visited in ascending order with an attempt after each."""
    iterations: int = 40
    """Updates at each timestep."""
    lr: float = 0.01
    """Learning rate."""
    weight_decay: float = 0.1
    """Weight decay of Adam."""
    batch_size: int = 8
    """Prompts searched at once; it has no effect on the result."""

    def __post_init__(self) -> None:
        require_positive_settings(
            "unlearn-diff-atk",
            tokens=self.tokens,
            timesteps=self.timesteps,
            iterations=self.iterations,
            batch_size=self.batch_size,
        )
        require(
            self.lr > 0 and self.weight_decay >= 0,
            f"unlearn-diff-atk: lr must be > 0 and weight_decay >= 0, got {self.lr} and {self.weight_decay}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.timesteps * self.iterations

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Search for each prompt. The floor is the prompt itself (the paper's pre-ASR)."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        for start in range(0, len(case.prompts), self.batch_size):
            yield from self._group(case, range(start, min(start + self.batch_size, len(case.prompts))))

    def _group(self, case: AttackCase, members: range) -> Iterator[AttackAttempt]:
        """Search relaxed tokens A (b, k, v) for these prompts, each row on the simplex, starting uniform."""
        model, rngs = case.model, random_generators(case.seed, members)
        tokenizer = model.tokenizer
        texts = {
            i: insert_free_tokens(word_ids(tokenizer, case.prompts[i]), self.tokens, self.place, tokenizer.length - 2)
            for i in members
        }
        allowed = TokenVocabulary.of(model).is_typable
        count = max(len(text.free_positions) for text in texts.values())
        # Differs: start and end token are left out, because nobody can type them.
        weights = (
            project_to_simplex(torch.zeros(len(members), count, len(allowed)), allowed)
            .to(model.device)
            .requires_grad_()
        )
        with torch.no_grad():
            latents = encode_images(model, case.pictures[members.start : members.stop])
        descent = Descent([weights], self.lr, "adam", self.weight_decay, case.seed)
        for t in attack_timesteps(self.timesteps, len(model.schedule.alpha)):
            left = [i for i in case.unsolved if i in members]
            if not left:
                return
            rows = [i - members.start for i in left]
            with case.edit_applied():
                texts_left, rngs_left = [texts[i] for i in left], [rngs[i] for i in left]
                loss = _loss(case, texts_left, rngs_left, (weights, latents), rows, t)
                losses = descent.run(loss, self.iterations, lambda step: _project(weights, allowed))
            best = weights.detach().argmax(-1)
            found = {
                i: AttackInput(text_of_ids(tokenizer, texts[i].fill(best[row].tolist())))
                for i, row in zip(left, rows, strict=True)
            }
            yield AttackAttempt(descent.done, found, sum(losses) / len(losses) / len(left))


def _loss(
    case: AttackCase,
    texts: Sequence[FreeTokenSlots],
    rngs: Sequence[torch.Generator],
    data: tuple[Tensor, Tensor],
    rows: list[int],
    t: int,
) -> StepLoss:
    """Build the sum over some prompts of the denoising error of their image, under tokens drawn from the relaxed ones.

    `data` are relaxed tokens and latents of all prompts; `rows` selects those of `texts`, each with its generator.
    """
    model, vocabulary = case.model, TokenVocabulary.of(case.model)
    weights, latents = data[0], data[1][rows]

    def loss(step: int, rng: torch.Generator) -> Tensor:
        one_hot = sample_tokens(weights[rows], rngs)
        given = model.condition(vocabulary.prompts(texts, vocabulary.mix_rows(one_hot)))
        noise = normal_noise(latents.shape[1:], rngs).to(latents)
        return denoising_error(
            model, given, latents, noise, torch.full((len(latents),), t, device=latents.device)
        ).sum()

    return loss


@torch.no_grad()
def _project(weights: Tensor, allowed: Tensor) -> None:
    weights.copy_(project_to_simplex(weights, allowed))


def attack_timesteps(count: int, timesteps: int) -> list[int]:
    """Return evenly spaced timesteps, ascending from half a gap: 10, 30, .., 990 for 50 of 1000."""
    return [int((i + 0.5) * timesteps / count) for i in range(count)]
