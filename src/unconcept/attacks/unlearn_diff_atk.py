"""UnlearnDiffAtk: Zhang et al., ECCV 2024, arXiv:2310.11868.

Searches a few tokens which, put into the prompt, make the edited model denoise an image of the concept. The model's own
loss is the classifier, so no other network is needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.timestep_grid import even_timesteps
from ..models.diffusion.vae import encode_images
from ..models.family import EncoderKind
from ..models.text.vocabulary import special_ids, text_of_ids, word_ids
from ..training import Descent, StepLoss
from ..training.token_search import (
    FreeTokenSlots,
    TokenPlacement,
    TokenVocabulary,
    all_vocabularies,
    denoising_error,
    insert_free_tokens,
    join_prompts,
    normal_noise,
    project_to_simplex,
    random_generators,
    sample_tokens,
)
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings


@attack(
    "unlearn-diff-atk",
    paper="arXiv:2310.11868",
    rung="text",
    scope="prompt",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "zimage", "flux2", "flux2_klein", "qwenimage"),
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class UnlearnDiffAtk:
    """Searches tokens that make the edited model denoise an image of the concept. Defaults of the authors' configs.

    (inferred) Where T5 reads beside CLIP, as in SD3 and FLUX, the tokens of one are searched, and the other reads the
    text of the tokens drawn at each update, without a gradient. What is found is one text for both.
    """

    undefined_elsewhere: ClassVar[str] = (
        "it puts rows among those of a text's tokens, and PixArt-Sigma's texts are encoded from words alone"
    )

    tokens: int = 3
    """k, number of tokens: 3 for styles and objects, 5 for nudity."""
    place: TokenPlacement = "prefix"
    """Position of the tokens in the prompt."""
    vocabulary: Literal["first", "clip", "t5"] = "first"
    """Whose tokens are searched: CLIP's, T5's, or those of the encoder whose states come first (T5 in FLUX, or a
    language model)."""
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
        kind = model.spec.first_encoder.kind if self.vocabulary == "first" else self.vocabulary
        own = TokenVocabulary.of(model, kind)
        tokenizer, allowed = own.tokenizer, own.is_typable
        room = tokenizer.length - len(special_ids(tokenizer))
        texts = {}
        for i in members:
            ids = word_ids(tokenizer, case.prompts[i])
            texts[i] = insert_free_tokens(ids, self.tokens, self.place, room)
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
        for t in even_timesteps(model, self.timesteps):
            left = [i for i in case.unsolved if i in members]
            if not left:
                return
            rows = [i - members.start for i in left]
            with case.edit_applied():
                searched = _Searched([texts[i] for i in left], [rngs[i] for i in left], weights, latents, rows)
                loss = _loss(case, kind, searched, t)
                losses = descent.run(loss, self.iterations, lambda step: _project(weights, allowed))
            best = weights.detach().argmax(-1)
            found = {
                i: AttackInput(text_of_ids(tokenizer, texts[i].fill(best[row].tolist()), model.tokenizers))
                for i, row in zip(left, rows, strict=True)
            }
            yield AttackAttempt(descent.done, found, sum(losses) / len(losses) / len(left))


@dataclass(frozen=True)
class _Searched:
    """What is searched for some of a group's prompts, each with its generator."""

    texts: Sequence[FreeTokenSlots]
    rngs: Sequence[torch.Generator]
    weights: Tensor  # (b, k, v): relaxed tokens of all prompts of the group
    latents: Tensor  # (b, c, h, w) of all prompts of the group
    rows: list[int]  # of these prompts among all


def _loss(case: AttackCase, kind: EncoderKind, searched: _Searched, t: float) -> StepLoss:
    """Build the sum over prompts of the denoising error of their image, under tokens drawn from the relaxed ones."""
    model, vocabularies = case.model, all_vocabularies(case.model)
    own, latents, is_alone = vocabularies[kind], searched.latents[searched.rows], len(vocabularies) == 1

    def loss(step: int, rng: torch.Generator) -> Tensor:
        one_hot = sample_tokens(searched.weights[searched.rows], searched.rngs)
        soft = own.prompts(searched.texts, own.mix_rows(one_hot))
        drawn = zip(searched.texts, one_hot.argmax(-1).tolist(), strict=True)
        filled = (
            [] if is_alone else [text_of_ids(own.tokenizer, text.fill(ids), model.tokenizers) for text, ids in drawn]
        )
        given = model.condition(join_prompts(vocabularies, {kind: soft}, filled))
        noise = normal_noise(latents.shape[1:], searched.rngs).to(latents)
        return denoising_error(
            model, given, latents, noise, torch.full((len(latents),), t, device=latents.device)
        ).sum()

    return loss


@torch.no_grad()
def _project(weights: Tensor, allowed: Tensor) -> None:
    weights.copy_(project_to_simplex(weights, allowed))
