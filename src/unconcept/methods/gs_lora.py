"""Group-sparse LoRA (GS-LoRA): Zhao et al., CVPR 2024, arXiv:2403.11530.

Forgets classes one request after another: adapters on the feed-forward layers of a transformer push its loss on them up
to a bound, its loss on others is held down, and a norm of each block's adapters together leaves most blocks unused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import LowRankEdit
from ..models import ModelView
from ..models.module_view import AnyModel, ModuleView
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.errors import ClassErrors, ConceptErrors, ErrorSource, require_retained
from ..training.forgetting.examples import ClassRequest
from ..training.forgetting.group_lora import (
    adapter_groups,
    bounded_ascent,
    group_figures,
    group_sparsity,
    low_rank_on,
    pairs_by_group,
)
from ..training.goals import TextEncodings
from ..training.images.picture_sets import draw_latents
from ..training.lr_schedules import cosine_restarts
from .registry import NO_SERVICES, MethodServices, method


@method("gs-lora", paper="arXiv:2403.11530", families=("sd1", "sd2", "sdxl", "sd3", "flux", "pixart"))
@dataclass(frozen=True)
class GSLoRA:
    """Forgets concepts, or classes of a classifier, by group-sparse adapters on feed-forward layers.

    The paper's method is for classifiers: `forget`. For diffusion models it is adapted, and defaults are ours.
    """

    rank: int = 8
    """Rank of each adapter."""
    layers: Literal["ffn", "kv"] = "ffn"
    """Maps with adapters: the feed-forward layers of each block, or its keys and values of the text."""
    iterations: int = 200
    """Training steps for up to four targets; more targets have more."""
    lr: float = 1e-3
    """Learning rate, which falls to 0 along a cosine; the authors' is 1e-2, for classifiers."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    batch_size: int = 4
    """Pictures to forget in a step, and as many to retain; the authors' is 48."""
    bnd: float = 1.0
    """BND: forgetting stops where the loss on the targets reaches it.

    In the variance of the noise for a diffusion model, where 1 is the error of one that knows nothing (inferred); in
    nats for a classifier, where the authors have 105 for logits scaled by CosFace.
    """
    beta: float = 0.2
    """Weight of forgetting."""
    alpha: float = 1e-4
    """Weight of group sparsity."""
    alpha_warm_up: int = 0
    """First steps without group sparsity: a large alpha needs them, or nothing is ever forgotten."""
    pictures: int = 24
    """Pictures of the targets that the model draws, and as many of the retained texts; at least one of each text."""
    picture_steps: int = 20
    """Sampling steps of these pictures."""
    picture_guidance: float = 4.0
    """Guidance scale of these pictures."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("gs-lora", self.seed)
        for name in ("iterations", "lr", "weight_decay", "bnd", "beta", "alpha", "alpha_warm_up", "picture_guidance"):
            require(getattr(self, name) >= 0, f"gs-lora: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"gs-lora: {name} must be > 0, got {getattr(self, name)}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> LowRankEdit:
        """Minimise L_r + beta ReLU(BND - L_f) + alpha sum_g sqrt(sum_{p in g} |p|_F^2).

        L_f = |eps(x_t, c) - noise|^2 on noised pictures of the targets c, L_r = |eps(y_t, r) - eps*(y_t, r)|^2 on those
        of the retained texts r, eps* the model before; a group g holds the factors of one block. Differs: L_f is the
        denoiser's own loss, as cross-entropy is a classifier's; a distance to eps* would have no gradient where the
        training begins. Anchors are not used.
        """
        retained = require_retained("gs-lora", request)
        drawing = (self.pictures, self.picture_steps, self.picture_guidance, self.seed)
        forget, retain = (draw_latents(model, texts, *drawing) for texts in (request.targets, retained))
        trained, groups = self._adapters(model)
        errors = ConceptErrors(model, trained, forget, retain, self.batch_size, TextEncodings.of(model))
        pictures = hash_tensors({"forget": forget.latents, "retain": retain.latents})
        about = {"request": vars(request), "pictures": pictures}
        steps = training_budget(self.iterations, len(request.targets))
        return self._trained(trained, groups, errors, steps, about)

    def forget(self, classifier: ModuleView, request: ClassRequest) -> LowRankEdit:
        """Minimise the same loss with L_f and L_r the cross-entropies of a classifier.

        Differs: the last weights are the result; the authors keep those that are best on the test images.
        """
        trained, groups = self._adapters(classifier)
        errors = ClassErrors(classifier, request, self.batch_size, self.seed)
        return self._trained(trained, groups, errors, self.iterations, {"images": request.hash})

    def _adapters(self, model: AnyModel) -> tuple[TrainableLowRank, Mapping[str, tuple[str, ...]]]:
        groups = adapter_groups(model, self.layers, "gs-lora")
        return low_rank_on(model, groups, self.rank, self.seed), groups

    def _trained(
        self,
        trained: TrainableLowRank,
        groups: Mapping[str, tuple[str, ...]],
        errors: ErrorSource,
        steps: int,
        about: Mapping[str, object],
    ) -> LowRankEdit:
        factors = pairs_by_group(trained, groups)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            found = errors(step, rng)
            alpha = self.alpha if step >= self.alpha_warm_up else 0.0
            return {
                "target": self.beta * bounded_ascent(found.forget, self.bnd),
                "retain": found.retain,
                "structure": alpha * group_sparsity(factors),
            }

        rate = cosine_restarts(steps, 0, 1)
        plan = TrainingPlan(steps, self.lr, "adamw", self.weight_decay, self.seed, rate=rate)
        losses = train(trained, loss, plan, {"settings": settings_data(self), **about}, name="gs-lora")
        return trained.edit(loss_figures(losses) | group_figures(trained, groups))
