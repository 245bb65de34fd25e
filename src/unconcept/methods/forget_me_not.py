"""Forget-Me-Not: Zhang et al., CVPR workshops 2024, arXiv:2211.08332.

Lowers the attention that pictures of the target pay to its words, in a few steps. Nothing is predicted and nothing is
retained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.attention_maps import record_attention, text_attentions
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import word_mask, word_states
from ..models.text.vocabulary import word_ids
from ..prompts.templates import check_sentences
from ..training import Descent, TrainableWeights, TrainingPlan, TrainingProgress, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import GivenStates, TextEncodings, TextOrStates
from ..training.gradient_transforms import GradientClip
from ..training.images.picture_sets import PictureSet, check_picture_settings, draw_forget_and_retain_sets
from ..training.parameter_groups import select_parameters
from ..training.session import current_session
from ..training.token_search import FreeTokenSlots, TokenVocabulary, denoising_error
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, method

_SENTENCES = {"style": "a photo in the style of {}"}
_SENTENCE = "a photo of {}"  # of every other kind


@method("forget-me-not", paper="arXiv:2211.08332", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class ForgetMeNot:
    """Steers attention away from the target's words.

    Defaults from the authors' `attn.yaml`, but for `use_ti`.
    """

    retain_pictures: ClassVar[int] = 0
    retain_prompts: ClassVar[str] = ""

    max_train_steps: int = 35
    """Training steps for up to four targets; more targets have more."""
    learning_rate: float = 2e-6
    """Learning rate of AdamW."""
    adam_weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    only_optimize_ca: bool = False
    """Train cross-attention alone; else the whole denoiser."""
    use_pooler: bool = True
    """Steer away from the end token too, and from padding that is one; only where CLIP's states are read."""
    use_ti: bool = False
    """Learn new words for the target first, and erase them; the authors' config does."""
    ti_tokens: int = 4
    """New words of a target; they start as its own words and random ones."""
    ti_steps: int = 500
    """Steps of learning the words of a target."""
    ti_lr: float = 1e-3
    """Learning rate of the words."""
    no_real_image: bool = False
    """Train on pure noise instead of noised pictures."""
    pictures: int = 10
    """Pictures of up to four targets; more targets have more."""
    images: str = ""
    """Folder of pictures of the target; "" lets the unedited model draw them."""
    templates: tuple[str, ...] = ()
    """Sentences with {} in the target's place; () takes the authors' for its kind."""
    picture_steps: int = 50
    """Sampling steps of the pictures (inferred)."""
    picture_guidance: float = 7.5
    """Guidance scale of the pictures (inferred)."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": no gradient of the whole denoiser is scaled down, as their list of parameters is used up by then."""

    def __post_init__(self) -> None:
        check_seed("forget-me-not", self.seed)
        check_picture_settings("forget-me-not", self)
        check_sentences("forget-me-not", self.templates)
        for name in ("max_train_steps", "learning_rate", "adam_weight_decay", "ti_steps", "ti_lr"):
            require(getattr(self, name) >= 0, f"forget-me-not: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("max_grad_norm", "ti_tokens"):
            require(getattr(self, name) > 0, f"forget-me-not: {name} must be > 0, got {getattr(self, name)}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |A|, the Frobenius norm of all attention probabilities of x_t at the positions of the target.

        A (heads p, k) are the softmax's columns at those k positions of each cross-attention, for each of p places of
        x_t (1, c, h, w), a noised picture of the target under its prompt. Anchors and retained texts are not used. In
        SD3 and FLUX A are the image's rows of the joint softmax, without FLUX's single blocks (inferred).
        """
        # Differs: several targets take turns; the authors erase one.
        # Differs: weights that get no gradient decay like the others; torch skips them.
        # Differs: the authors' pictures are given; without `images` the unedited model draws them.
        # Differs: `use_ti` is off, because it erases words that nobody types.
        message = (
            f"forget-me-not: use_ti learns token rows, and {model.family} has no single table of them: leave it out"
        )
        require(not self.use_ti or bool(model.spec.clip_encoders), message, RequestError)
        trained = TrainableWeights(
            model, select_parameters(denoiser_parameters(model), "xattn" if self.only_optimize_ca else "full")
        )
        forms = self.templates or (_SENTENCES.get(request.kind, _SENTENCE),)
        pictures, texts = self._pictures(model, request, forms), TextEncodings.of(model)
        steered = self._steered(model, request, forms, pictures)
        places = text_attentions(model)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            z, (prompt,) = pictures.batch(step, 1)
            x_t, t, _ = noise_latents(model, torch.zeros_like(z) if self.no_real_image else z, rng)
            given, positions = steered[prompt]
            with record_attention(model, places, positions) as kept:
                model.denoise(x_t, t, texts([given]))
            return torch.stack([found.square().sum() for (found,) in kept.values()]).sum().sqrt()

        clips = self.only_optimize_ca or self.compat != "authors"
        plan = TrainingPlan(
            training_budget(self.max_train_steps, len(request.targets)),
            self.learning_rate,
            "adamw",
            self.adam_weight_decay,
            self.seed,
            transforms=[GradientClip(self.max_grad_norm)] if clips else [],
        )
        about = {"settings": settings_data(self), "request": vars(request), "pictures": pictures.hash}
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="forget-me-not")))

    def _pictures(self, model: ModelView, request: Request, forms: tuple[str, ...]) -> PictureSet:
        return draw_forget_and_retain_sets("forget-me-not", model, request, replace(self, templates=forms))[0]

    def _steered(
        self, model: ModelView, request: Request, forms: tuple[str, ...], pictures: PictureSet
    ) -> dict[str, tuple[TextOrStates, list[int]]]:
        """Return what the denoiser reads for each prompt, and the positions to steer away from."""
        found: dict[str, tuple[TextOrStates, list[int]]] = {}
        for number, target in enumerate(request.targets):
            prompts = {form.replace("{}", target): form for form in forms}
            own = {prompt: form for prompt, form in prompts.items() if prompt in pictures.prompts}
            if self.use_ti:
                found |= self._learned(model, target, own, pictures, number)
            elif model.spec.clip_encoders:
                for prompt, form in own.items():
                    mask = word_mask(model, form, target, self.use_pooler)
                    found[prompt] = prompt, mask.nonzero()[:, 0].tolist()
            else:
                found |= {prompt: (prompt, word_states(model, prompt, target)) for prompt in own}
        return found

    def _learned(
        self, model: ModelView, target: str, forms: Mapping[str, str], pictures: PictureSet, number: int
    ) -> dict[str, tuple[TextOrStates, list[int]]]:
        """Learn new words for a target from its pictures, by the model's own loss (textual inversion).

        Differs: they start as the target's words and random ones; the authors' as two fixed words and random ones.
        """
        vocabulary, tokenizer = TokenVocabulary.of(model), model.tokenizer
        rng = torch.Generator().manual_seed(numbered_seed(self.seed, number))
        known = torch.tensor(word_ids(tokenizer, target)[: self.ti_tokens])
        ids = torch.cat([known, vocabulary.random_ids((self.ti_tokens - len(known),), rng)])
        rows = [row[None].clone().requires_grad_() for row in vocabulary.rows(ids)]
        slots = {prompt: self._slots(model, form) for prompt, form in forms.items()}
        own = [i for i, prompt in enumerate(pictures.prompts) if prompt in slots]
        descent = Descent(rows, self.ti_lr, "adamw", self.adam_weight_decay, numbered_seed(self.seed, number))

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = own[int(torch.randint(len(own), (), generator=rng))]
            x0 = pictures.latents[which : which + 1]
            t = torch.randint(len(model.schedule.alpha), (1,), generator=rng).to(model.device)
            noise = torch.randn(x0.shape, generator=rng).to(x0)
            given = model.condition(vocabulary.prompts([slots[pictures.prompts[which]]], rows))
            return denoising_error(model, given, x0, noise, t).mean()

        def tell(done: int) -> None:
            progress = TrainingProgress("forget-me-not-ti", done, self.ti_steps, descent.losses[-1], 0.0)
            current_session().on_progress(progress)

        descent.run(loss, self.ti_steps, tell)
        found: dict[str, tuple[TextOrStates, list[int]]] = {}
        for prompt, slot in slots.items():
            soft = vocabulary.prompts([slot], [row.detach() for row in rows])
            ends = (soft.ids[0] == tokenizer.end).nonzero()[:, 0].tolist() if self.use_pooler else []
            with torch.no_grad():
                found[prompt] = GivenStates(model.condition(soft)), [*soft.at[0].tolist(), *ends]
        return found

    def _slots(self, model: ModelView, form: str) -> FreeTokenSlots:
        """Put the new words into a sentence."""
        before, after = (word_ids(model.tokenizer, part) for part in form.split("{}"))
        ids = (*before, *[0] * self.ti_tokens, *after)
        room = model.tokenizer.length - 2
        require(len(ids) <= room, f"forget-me-not: {self.ti_tokens} ti_tokens in {form!r} are too many: at most {room}")
        return FreeTokenSlots(ids, tuple(range(len(before), len(before) + self.ti_tokens)))
