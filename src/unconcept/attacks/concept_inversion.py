"""Concept Inversion: Pham et al., ICLR 2024, arXiv:2308.01508 (from the authors' scripts).

Learns a new word for the concept in the edited model: embedding rows of a placeholder, trained on images of the concept
with the model's own loss. No weight changes, and the edited model never gets the concept's name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.concept import KIND_TEMPLATES
from ..core.errors import require
from ..models.diffusion.vae import encode_images
from ..models.text.vocabulary import word_ids
from ..prompts.text_matching import GENERAL_WORDS, text_around_name
from ..training import Descent, StepLoss
from ..training.token_search import FreeTokenSlots, TokenVocabulary, denoising_error
from .registry import AttackAttempt, AttackCase, AttackInput, attack, require_positive_settings


@attack(
    "concept-inversion", paper="arXiv:2308.01508", rung="embedding", scope="concept", families=("sd1", "sd2", "sdxl")
)
@dataclass(frozen=True)
class ConceptInversion:
    """Learns a new word for the concept from images of it.

    Defaults from the authors' scripts for edited weights.
    """

    steps: int = 5000
    """Steps of the search."""
    every: int = 500
    """Steps between attempts (inferred)."""
    lr: float = 0.08
    """Learning rate: 5e-3 times batch and accumulation, as with the authors' --scale_lr on one GPU."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW, on the new rows alone."""
    batch_size: int = 4
    """Images in a batch."""
    accumulate: int = 4
    """Batches in a step."""
    vectors: int = 1
    """Embedding rows of the placeholder."""
    init: str | None = None
    """Word that initialises the placeholder; None: the general word of the concept's kind."""
    templates: tuple[str, ...] = ()
    """Training prompts with one {}; () takes those of the concept's kind."""
    flip: bool = True
    """Mirror half of the images."""

    def __post_init__(self) -> None:
        require_positive_settings("concept-inversion", steps=self.steps, every=self.every, batch_size=self.batch_size)
        require_positive_settings("concept-inversion", accumulate=self.accumulate, vectors=self.vectors)
        require(
            self.lr > 0 and self.weight_decay >= 0,
            f"concept-inversion: lr must be > 0 and weight_decay >= 0, got {self.lr} and {self.weight_decay}",
        )
        for template in self.templates:
            require(
                template.count("{}") == 1,
                f"concept-inversion: templates need one {{}} in the concept's place, got {template!r}",
            )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.steps

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Train rows (1, k, d_e) for each encoder e. The floor is the placeholder with its initial word."""
        model = case.model
        rows = [row.requires_grad_() for row in self._start(case)]
        places = [self._slots(case, *text_around_name(prompt, _names(case))) for prompt in case.prompts]
        forms = [self._slots(case, *form.split("{}")) for form in self.templates or KIND_TEMPLATES[case.concept.kind]]
        with torch.no_grad():
            latents = [encode_images(model, pictures) for pictures in (case.examples, case.examples.flip(-1))]
        yield self._attempt(case, rows, places, 0, None)
        descent = Descent(rows, self.lr, "adamw", self.weight_decay, case.seed)
        while descent.done < self.steps and case.unsolved:
            with case.edit_applied():
                loss = self._loss(case, TokenVocabulary.of(model), rows, forms, latents)
                losses = descent.run(loss, min(self.every, self.steps - descent.done), parts=self.accumulate)
            yield self._attempt(case, rows, places, descent.done, sum(losses) / len(losses))

    def _start(self, case: AttackCase) -> list[Tensor]:
        """Return the rows of the initial word, in float32 or wider.

        Differs: for a word of several tokens we take the mean of their rows; the authors' script refuses it.
        """
        init = self.init or GENERAL_WORDS[case.concept.kind]
        with case.edit_applied():
            found = TokenVocabulary.of(case.model).rows(torch.tensor(word_ids(case.model.tokenizer, init)))
            means = [table.mean(0).to(torch.promote_types(table.dtype, torch.float32)) for table in found]
        return [mean.expand(1, self.vectors, -1).clone() for mean in means]

    def _slots(self, case: AttackCase, before: str, after: str) -> FreeTokenSlots:
        """Put the placeholder between two texts, which are cut at their ends if they are too long for the encoder."""
        tokenizer = case.model.tokenizer
        room = tokenizer.length - 2 - self.vectors
        first = word_ids(tokenizer, before)[:room]
        last = word_ids(tokenizer, after)[: room - len(first)]
        return FreeTokenSlots((*first, *[0] * self.vectors, *last), tuple(range(len(first), len(first) + self.vectors)))

    def _loss(
        self,
        case: AttackCase,
        vocabulary: TokenVocabulary,
        rows: list[Tensor],
        forms: list[FreeTokenSlots],
        latents: list[Tensor],
    ) -> StepLoss:
        """Build the denoising loss of a batch of images, some mirrored, each under a random template.

        Differs: latents are the posterior's mean; the authors sample from it.
        """
        model, n = case.model, self.batch_size

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(latents[0]), (n,), generator=rng).tolist()
            mirrored = (torch.rand(n, generator=rng) < (0.5 if self.flip else 0.0)).tolist()
            x0 = torch.stack([latents[side][i] for side, i in zip(mirrored, which, strict=True)])
            texts = [forms[i] for i in torch.randint(len(forms), (n,), generator=rng).tolist()]
            t = torch.randint(len(model.schedule.alpha), (n,), generator=rng).to(model.device)
            noise = torch.randn(x0.shape, generator=rng).to(x0)
            given = model.condition(vocabulary.prompts(texts, [row.expand(n, -1, -1) for row in rows]))
            return denoising_error(model, given, x0, noise, t).mean()

        return loss

    def _attempt(
        self, case: AttackCase, rows: list[Tensor], places: list[FreeTokenSlots], steps: int, loss: float | None
    ) -> AttackAttempt:
        """Put the placeholder in the place of the concept's name, or before a prompt that does not name it."""
        kept = tuple(row.detach().clone() for row in rows)
        with case.edit_applied():
            vocabulary = TokenVocabulary.of(case.model)
            left = case.unsolved
            soft = {i: vocabulary.prompts([places[i]], kept) for i in left}
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], soft=soft[i]) for i in left}, loss)


def _names(case: AttackCase) -> tuple[str, ...]:
    return (*case.concept.all_names, *case.wordings)
