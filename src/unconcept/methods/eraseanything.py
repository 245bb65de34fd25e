"""EraseAnything: Gao et al., ICML 2025, arXiv:2412.20413.

For flow transformers: adapters on the text's queries and keys of each joint block learn in turns to erase a concept, by
negative guidance and by less attention to its words, and to keep the rest, by the flow of the concept's own images and
by attention that is as unlike a synonym's as unrelated words' is.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import RequestError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..core.text_identity import distinct_texts
from ..edits import LowRankEdit
from ..models import ModelView
from ..models.hooks.attention_maps import AttentionRecord, record_attention, text_attentions
from ..models.hooks.modules import denoiser_modules, denoiser_parameters
from ..models.images import read_picture_folder
from ..models.text.state_rows import filled_states, sentences_that_fit
from ..models.text.text_identity import TokenTextKey
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.budget import number_in_turn, training_budget
from ..training.distributed import rank_seed_offset
from ..training.goals import (
    GuidanceReference,
    goal_predictions,
    negative_guidance_goal,
    reference_texts,
)
from ..training.images.picture_sets import draw_pictures
from ..training.images.training_images import images_to_latents, take_in_turn
from ..training.parameter_groups import select_parameters
from ..training.sample_options import augment_sample
from ..training.trajectories import GuidedSampler, noise_latents
from .registry import NO_SERVICES, MethodServices, method


@method("eraseanything", paper="arXiv:2412.20413", families=("sd3", "flux"))
@dataclass(frozen=True)
class EraseAnything:
    """Trains the text's queries and keys of joint attention to erase and to keep in turns.

    Defaults from the authors' script for nudity.
    """

    rank: int = 8
    """Rank of each adapter."""
    alpha: float = 8.0
    """Scale of the adapter, which is alpha / rank up down."""
    iterations: int = 200
    """Training steps for up to four targets, half of them to erase; more targets have more."""
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 1e-5
    """Weight decay of AdamW."""
    ddim_steps: int = 28
    """Sampling steps of a trajectory."""
    start_guidance: float = 3.0
    """Guidance scale for sampling, where the model has no guidance of its own."""
    negative_guidance: float = 1.0
    """eta, strength of the negative guidance."""
    reference: GuidanceReference = "anchor"
    """Text that negative guidance is taken about: the same sentence with the target's anchor, or the empty text."""
    lamb1: float = 1.0
    """Weight of negative guidance."""
    lamb2: float = 1.28
    """Weight of attention to the target's words, which is summed over tokens and averaged over positions: the authors'
    0.001 times the 1280 positions that they sum over."""
    lamb3: float = 0.1
    """Weight of the flow of the target's images."""
    lamb4: float = 0.1
    """Weight of the reverse self-contrast."""
    irrelevant: int = 3
    """K, retained texts in a contrast."""
    tau: float = 0.07
    """Temperature of the contrast."""
    contrast_reuse: int = 8
    """Contrasts that use the trajectories of the same words from the same noise, each at a step of its own."""
    synonyms: tuple[str, ...] = ()
    """Other words for the target; () takes targets of the same anchor, or else the target in another sentence."""
    shuffle_share: float = 0.9
    """Share of the prompts whose words are shuffled."""
    synonym_share: float = 0.5
    """Share of the prompts in which a synonym replaces the target, if there are any."""
    images: str = ""
    """Folder of images of the target; "" lets the unedited model generate them."""
    pictures: int = 4
    """Generated images, at least one of each target."""
    picture_steps: int = 28
    """Sampling steps of the generated images."""
    picture_guidance: float = 3.5
    """Guidance scale of the generated images."""
    templates: tuple[str, ...] = ()
    """Prompts with {} in the concept's place; () takes thirty for its kind."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": the edited model is its own teacher, latents are finished at every timestep, and attention is also
    that of the text."""

    def __post_init__(self) -> None:
        check_seed("eraseanything", self.seed)
        check_sentences("eraseanything", self.templates)
        weights = ("lamb1", "lamb2", "lamb3", "lamb4")
        for name in ("iterations", "lr", "weight_decay", "start_guidance", "picture_guidance", *weights):
            require(getattr(self, name) >= 0, f"eraseanything: {name} must be >= 0, got {getattr(self, name)}")
        counts = ("ddim_steps", "irrelevant", "contrast_reuse", "pictures", "picture_steps")
        for name in ("rank", "alpha", "tau", *counts):
            require(getattr(self, name) > 0, f"eraseanything: {name} must be > 0, got {getattr(self, name)}")
        for name in ("shuffle_share", "synonym_share"):
            require(0 <= getattr(self, name) <= 1, f"eraseanything: {name} must be 0 to 1, got {getattr(self, name)}")
        require(
            self.negative_guidance >= -1,
            f"eraseanything: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> LowRankEdit:
        """Even steps: lamb1 |v(x_t, c) - (v*_n - eta (v*_c - v*_n))|^2 + lamb2 L_attn; odd: lamb3 L_flow + lamb4 L_sc.

        v* is the unedited model, n the neutral sentence, x_t (1, c, h, w) the edited model's own latents under the
        prompt c. L_attn is the norm over heads of the last block's attention to the target's words, L_flow the model's
        training loss, both on noised images of the target. L_sc = log(e_N / (e_N + sum_k e_k)) with e = exp(cos(., F) /
        tau), of the first head's attention to the words: F of the edited model on an image, N of a synonym, k of
        retained texts on trajectories of their own.
        """
        # Differs: v* and the contrast's other maps are the unedited model's; the authors' come from the edited one.
        # Differs: x_t belong to their timestep, the sampler's; the authors' are the end of a run over tiny steps.
        # Differs: maps are of the picture's positions alone; each prompt's words are found in that prompt itself, and a
        # target of several words stays together when words are shuffled.
        # Differs: synonyms are those of the request, not WordNet's; retained texts stand for GPT-4o's unrelated words.
        # Differs: FLUX dev predicts at its default guidance of 3.5 throughout; the authors erase at 3.
        references, retain = reference_texts("eraseanything", request, self.reference), self._retain(request)
        maps = denoiser_modules(model, select_parameters(denoiser_parameters(model), "text-qk"))
        trained = TrainableLowRank(model, maps, self.rank, self.seed, scale=self.alpha / self.rank)
        latents = self._latents(model, request)
        teacher = nullcontext if self.compat == "authors" else trained.teacher
        part = _Training(self, model, request, references, retain, latents, teacher)
        steps = training_budget(self.iterations, len(request.targets), least=2)
        plan = TrainingPlan(steps, self.lr, "adamw", self.weight_decay, self.seed)
        about = {"settings": settings_data(self), "request": vars(request), "latents": hash_tensors({"z": latents})}
        return trained.edit(loss_figures(train(trained, part.loss, plan, about, name="eraseanything")))

    def _retain(self, request: Request) -> tuple[str, ...]:
        found = tuple(text for text in request.retain if text)
        require(
            bool(found) or self.lamb4 == 0,
            "eraseanything: no retained text to contrast the target with: name unrelated concepts with --retain, or set"
            " lamb4 to 0",
            RequestError,
        )
        return found

    def _latents(self, model: ModelView, request: Request) -> Tensor:
        """Return the latents (n, c, h, w) of images of the targets, which belong to them in turn."""
        if self.images:
            return images_to_latents(model, read_picture_folder(Path(self.images), model, 1)).to(model.dtype)
        forms = open_sentences("eraseanything", request, self.templates)
        worded = []
        for text in request.targets:
            worded.append([form.replace("{}", text) for form in sentences_that_fit(model, forms, text)])
        prompts = take_in_turn(worded, max(self.pictures, len(worded)))
        return draw_pictures(model, prompts, self).latents


@dataclass
class _Training:
    """The losses of one training."""

    own: EraseAnything
    model: ModelView
    request: Request
    references: dict[str, str]
    retain: tuple[str, ...]
    latents: Tensor
    teacher: Callable[[], AbstractContextManager[None]]
    walk: GuidedSampler = field(init=False)
    place: dict[str, nn.Module] = field(init=False)  # the last joint attention
    _others: dict[str, tuple[int, list[Tensor]]] = field(default_factory=dict, init=False)
    """By target, the number of a block of contrasts, and its maps (1 + K, p) after each number of sampling steps."""

    def __post_init__(self) -> None:
        self.walk = GuidedSampler.of(self.model, self.own.ddim_steps, self.own.start_guidance)
        self.place = dict(list(text_attentions(self.model).items())[-1:])
        self.is_authors = self.own.compat == "authors"
        self.forms = open_sentences("eraseanything", self.request, self.own.templates)

    def loss(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Compute the losses of a step. An even step and the next share target, image and number of sampling steps."""
        pair, which = step // 2, number_in_turn(step // 2, len(self.request.targets), self.own.seed)
        drawing = torch.Generator().manual_seed(
            numbered_seed(self.own.seed, pair) + rank_seed_offset(self.model.device)
        )
        k = int(torch.randint(self.own.ddim_steps, (), generator=drawing))
        target, count = self.request.targets[which], len(self.request.targets)
        shown = range(which, len(self.latents), count) if not self.own.images else range(len(self.latents))
        x0 = self.latents[shown[pair % len(shown)]][None]
        return self._keep(target, x0, k, step, rng) if step % 2 else self._erase(target, x0, k, step, rng)

    def _erase(self, target: str, x0: Tensor, k: int, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        neutral, form, word = self._wording(target, step)
        prompt = form.replace("{}", word)
        seeds, t = torch.randint(2**31, (1,), generator=rng).tolist(), self.walk.timestep(k, 1)
        stop = self.own.ddim_steps if self.is_authors else k
        x_t = augment_sample(self.walk.denoise_steps(self.walk.initial_latents(seeds), [prompt], 0, stop), t)
        z_t, _, _ = noise_latents(self.model, x0, rng, t)
        goal = negative_guidance_goal(prompt, self.own.negative_guidance, neutral)
        with self.teacher():
            (wanted,) = goal_predictions(self.model, self.walk.texts, x_t, t, [[goal]])
        with record_attention(self.model, self.place, filled_states(self.model, form, word), self.is_authors) as kept:
            said = self.model.denoise(torch.cat([x_t, z_t]), t.repeat(2), self.walk.texts([prompt] * 2))
        (looked,) = _only(kept)
        attention = torch.linalg.vector_norm(looked[1:].float(), dim=(0, 1))
        return {
            "target": self.own.lamb1 * (said[:1] - wanted).float().square().mean(),
            "attention": self.own.lamb2 * attention.sum(1).mean(),
        }

    def _keep(self, target: str, x0: Tensor, k: int, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        _, form, word = self._wording(target, step)
        z_t, t, flow = noise_latents(self.model, x0, rng, self.walk.timestep(k, 1))
        with record_attention(self.model, self.place, filled_states(self.model, form, word), self.is_authors) as kept:
            said = self.model.denoise(z_t, t, self.walk.texts([form.replace("{}", word)]))
        found = {"flow": self.own.lamb3 * (said - flow).float().square().mean()}
        if self.own.lamb4 == 0:
            return found
        (looked,) = _only(kept)
        current = looked[0, 0].float().mean(1)
        others = self._maps(target, step // 2 // len(self.request.targets))
        return found | {"contrast": self.own.lamb4 * reverse_contrast(current, others[k], self.own.tau)}

    def _maps(self, target: str, turn: int) -> list[Tensor]:
        """Return the maps (1 + K, p) of a synonym and of retained texts after each number of sampling steps."""
        block = turn // (1 if self.is_authors else self.own.contrast_reuse)
        known, maps = self._others.get(target, (-1, []))
        if known == block:
            return maps
        number = block * len(self.request.targets) + self.request.targets.index(target)
        rng, seed = random.Random(numbered_seed(self.own.seed, number)), numbered_seed(self.own.seed, number)
        words = [rng.choice(self._synonyms(target) or (target,))]
        words += rng.sample(self.retain, min(self.own.irrelevant, len(self.retain)))
        forms = [rng.choice(sentences_that_fit(self.model, self.forms, word)) for word in words]
        prompts = [form.replace("{}", word) for form, word in zip(forms, words, strict=True)]
        tokens = [filled_states(self.model, form, word) for form, word in zip(forms, words, strict=True)]
        every = sorted(set().union(*tokens))
        columns = [torch.isin(torch.tensor(every), torch.tensor(own)) for own in tokens]
        x, maps = self.walk.initial_latents([seed] * len(words)), []
        with torch.no_grad(), self.teacher():
            for k in range(self.own.ddim_steps):
                with record_attention(self.model, self.place, every, self.is_authors) as kept:
                    x = self.walk.denoise_steps(x, prompts, k, k + 1)
                (looked,) = _only(kept)
                # The first rows of a guided call are those of the empty text.
                heads = looked[-len(words) :, 0].float()
                maps.append(torch.stack([row[:, own].mean(1) for row, own in zip(heads, columns, strict=True)]))
        self._others[target] = block, maps
        return maps

    def _wording(self, target: str, step: int) -> tuple[str, str, str]:
        """Return the neutral sentence of a step, its own sentence with {}, and the word in that place."""
        rng, words = random.Random(numbered_seed(self.own.seed, step)), self._synonyms(target)
        word = rng.choice(words) if words and rng.random() < self.own.synonym_share else target
        form, anchor = rng.choice(sentences_that_fit(self.model, self.forms, target, word)), self.references[target]
        units = form.split()
        if rng.random() < self.own.shuffle_share:
            rng.shuffle(units)
        return anchor and form.replace("{}", anchor), " ".join(units), word

    def _synonyms(self, target: str) -> tuple[str, ...]:
        anchors = dict(zip(self.request.targets, self.request.anchors, strict=False))
        alike = (text for text in anchors if text != target and anchors[text] == anchors[target])
        return distinct_texts(self.own.synonyms, TokenTextKey.of(self.model)) or tuple(alike)


def _only(kept: AttentionRecord) -> list[Tensor]:
    (found,) = kept.values()
    return found


def reverse_contrast(current: Tensor, others: Tensor, tau: float) -> Tensor:
    """Return log(e_0 / sum_k e_k), e_k = exp(cos(others_k, current) / tau): others (1 + K, p), the synonym first."""
    return F.log_softmax(F.cosine_similarity(others.to(current), current[None], dim=1) / tau, 0)[0]
