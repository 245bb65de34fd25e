"""Concept Inversion: Pham et al., ICLR 2024, arXiv:2308.01508 (from the authors' scripts).

Learns a new word for the concept in the edited model: embedding rows of a placeholder, trained on images of the concept
with the model's own loss. No weight changes, and the edited model never gets the concept's name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.concept import KIND_TEMPLATES
from ..core.errors import require
from ..models.diffusion.vae import encode_images
from ..models.family import EncoderKind
from ..models.model_view import SoftPrompts
from ..models.text.vocabulary import encoder_kinds, special_ids, word_ids
from ..prompts.text_matching import GENERAL_WORDS, text_around_name
from ..training import Descent, StepLoss
from ..training.token_search import (
    FreeTokenSlots,
    TokenVocabulary,
    all_vocabularies,
    denoising_error,
    join_prompts,
    training_timesteps,
)
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings

_Rows = Mapping[EncoderKind, Sequence[Tensor]]  # of the placeholder: (1, k, d_e) for each encoder of a kind
_Halves = tuple[str, str]  # a text before and after the placeholder


@attack(
    "concept-inversion",
    paper="arXiv:2308.01508",
    rung="embedding",
    scope="concept",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "zimage", "flux2", "flux2_klein", "qwenimage"),
    place=LadderPlace(pictures="examples"),
)
@dataclass(frozen=True)
class ConceptInversion:
    """Learns a new word for the concept from images of it.

    Defaults from the authors' scripts for edited weights. (inferred) Where T5 reads beside CLIP, as in SD3 and FLUX,
    the placeholder has rows of its own in each, learned together.
    """

    undefined_elsewhere: ClassVar[str] = (
        "it puts rows among those of a text's tokens, and PixArt-Sigma's texts are encoded from words alone"
    )

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
    encoders: Literal["all", "clip", "t5"] = "all"
    """Encoders whose rows are learned; the others read the initial word. FLUX's CLIP gives the pooled text alone."""
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
        model, kinds = case.model, self._kinds(case)
        rows = {kind: self._start(case, kind) for kind in kinds}
        places = [text_around_name(prompt, _names(case)) for prompt in case.prompts]
        with torch.no_grad():
            latents = [encode_images(model, pictures) for pictures in (case.examples, case.examples.flip(-1))]
        yield self._attempt(case, rows, places, 0, None)
        params = [row for own in rows.values() for row in own]
        descent = Descent(params, self.lr, "adamw", self.weight_decay, case.seed)
        while descent.done < self.steps and case.unsolved:
            with case.edit_applied():
                loss = self._loss(case, rows, latents)
                losses = descent.run(loss, min(self.every, self.steps - descent.done), parts=self.accumulate)
            yield self._attempt(case, rows, places, descent.done, sum(losses) / len(losses))

    def _kinds(self, case: AttackCase) -> tuple[EncoderKind, ...]:
        """The kinds of encoders whose rows are learned."""
        known = encoder_kinds(case.model)
        if self.encoders == "all":
            return known
        message = f"concept-inversion: encoders {self.encoders!r}, but {case.model.family} has {', '.join(known)}"
        require(self.encoders in known, f"{message}: choose one, or all")
        return (self.encoders,)

    def _word(self, case: AttackCase) -> str:
        return self.init or GENERAL_WORDS[case.concept.kind]

    def _start(self, case: AttackCase, kind: EncoderKind) -> list[Tensor]:
        """Return the rows of the initial word, in float32 or wider, to be learned.

        Differs: for a word of several tokens we take the mean of their rows; the authors' script refuses it.
        """
        with case.edit_applied():
            vocabulary = TokenVocabulary.of(case.model, kind)
            found = vocabulary.rows(torch.tensor(word_ids(vocabulary.tokenizer, self._word(case))))
            means = [table.mean(0).to(torch.promote_types(table.dtype, torch.float32)) for table in found]
        return [mean.expand(1, self.vectors, -1).clone().requires_grad_() for mean in means]

    def _slots(self, vocabulary: TokenVocabulary, halves: _Halves) -> FreeTokenSlots:
        """Put the placeholder between two texts, which are cut at their ends if they are too long for the encoder."""
        tokenizer = vocabulary.tokenizer
        room = tokenizer.length - len(special_ids(tokenizer)) - self.vectors
        before, after = (word_ids(tokenizer, half) for half in halves)
        first = before[:room]
        last = after[: room - len(first)]
        return FreeTokenSlots((*first, *[0] * self.vectors, *last), tuple(range(len(first), len(first) + self.vectors)))

    def _prompts(self, case: AttackCase, texts: Sequence[_Halves], rows: _Rows) -> SoftPrompts:
        """Prompts with the placeholder between the halves of each text."""
        vocabularies = all_vocabularies(case.model)
        searched = {}
        for kind, own in rows.items():
            slots = [self._slots(vocabularies[kind], halves) for halves in texts]
            searched[kind] = vocabularies[kind].prompts(slots, [row.expand(len(texts), -1, -1) for row in own])
        plain = [" ".join(filter(None, (before, self._word(case), after))) for before, after in texts]
        return join_prompts(vocabularies, searched, plain)

    def _loss(self, case: AttackCase, rows: _Rows, latents: list[Tensor]) -> StepLoss:
        """Build the denoising loss of a batch of images, some mirrored, each under a random template.

        Differs: latents are the posterior's mean; the authors sample from it.
        """
        model, n, timesteps = case.model, self.batch_size, training_timesteps(case.model)
        forms = [_halves(form) for form in self.templates or KIND_TEMPLATES[case.concept.kind]]

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(latents[0]), (n,), generator=rng).tolist()
            mirrored = (torch.rand(n, generator=rng) < (0.5 if self.flip else 0.0)).tolist()
            x0 = torch.stack([latents[side][i] for side, i in zip(mirrored, which, strict=True)])
            texts = [forms[i] for i in torch.randint(len(forms), (n,), generator=rng).tolist()]
            t = timesteps[torch.randint(len(timesteps), (n,), generator=rng)].to(model.device)
            noise = torch.randn(x0.shape, generator=rng).to(x0)
            return denoising_error(model, model.condition(self._prompts(case, texts, rows)), x0, noise, t).mean()

        return loss

    def _attempt(
        self, case: AttackCase, rows: _Rows, places: Sequence[_Halves], steps: int, loss: float | None
    ) -> AttackAttempt:
        """Put the placeholder in the place of the concept's name, or before a prompt that does not name it."""
        kept = {kind: _copies(own) for kind, own in rows.items()}
        left = case.unsolved
        with case.edit_applied():
            soft = {i: self._prompts(case, [places[i]], kept) for i in left}
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], soft=soft[i]) for i in left}, loss)


def _halves(form: str) -> _Halves:
    before, _, after = form.partition("{}")
    return before.strip(), after.strip()


def _copies(rows: Sequence[Tensor]) -> list[Tensor]:
    return [row.detach().clone() for row in rows]


def _names(case: AttackCase) -> tuple[str, ...]:
    return (*case.concept.all_names, *case.wordings)
