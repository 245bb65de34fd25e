"""GS-LoRA++: Zhao et al., T-PAMI 2026, arXiv:2501.09705.

GS-LoRA with prototypes: features of what is forgotten are pushed from the mean of their class up to a bound, those of
what is retained may be pulled to theirs, and a running mean of the weights is the result.
"""

from collections.abc import Callable, Mapping
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
from ..training.forgetting.prototypes import Prototypes, class_prototypes, concept_prototypes, record_features
from ..training.forgetting.running_mean import RunningMean
from ..training.goals import TextEncodings
from ..training.images.picture_sets import draw_latents
from ..training.lr_schedules import cosine_restarts
from .registry import NO_SERVICES, MethodServices, method


@method("gs-lora-plus", paper="arXiv:2501.09705", families=("sd1", "sd2", "sdxl", "sd3", "flux", "pixart"))
@dataclass(frozen=True)
class GSLoRAPlus:
    """Forgets concepts, or classes of a classifier, by group-sparse adapters and prototypes.

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
    """BND: forgetting stops where the loss on the targets reaches it, as in GS-LoRA."""
    beta: float = 0.2
    """Weight of forgetting."""
    alpha: float = 1e-4
    """Weight of group sparsity."""
    alpha_warm_up: int = 0
    """First steps without group sparsity: a large alpha needs them, or nothing is ever forgotten."""
    w_f: float = 0.01
    """Weight of the distance of the targets' features from their prototypes."""
    w_r: float = 0.0
    """Weight of the distance of retained features to their prototypes; the authors' scripts have 0."""
    bnd_pro: float = 18.0
    """BND_pro: the distance, a KL divergence in nats, up to which the targets' features are pushed."""
    ema_decay: float = 0.9
    """Decay of the running mean of the weights that is the result; 0 takes the last ones."""
    ema_begin: float = 0.3
    """Share of the steps before the running mean begins."""
    pictures: int = 24
    """Pictures of the targets that the model draws, and as many of the retained texts; at least one of each text."""
    picture_steps: int = 20
    """Sampling steps of these pictures."""
    picture_guidance: float = 4.0
    """Guidance scale of these pictures."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("gs-lora-plus", self.seed)
        for name in ("iterations", "lr", "weight_decay", "bnd", "beta", "alpha", "alpha_warm_up", "w_f", "w_r"):
            require(getattr(self, name) >= 0, f"gs-lora-plus: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("bnd_pro", "picture_guidance"):
            require(getattr(self, name) >= 0, f"gs-lora-plus: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"gs-lora-plus: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.ema_decay < 1, f"gs-lora-plus: ema_decay must be 0 to below 1, got {self.ema_decay}")
        require(0 <= self.ema_begin < 1, f"gs-lora-plus: ema_begin must be 0 to below 1, got {self.ema_begin}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> LowRankEdit:
        """Minimise the loss of GS-LoRA and w_f ReLU(BND_pro - d(x_f)) + w_r d(x_r).

        d(x) = KL(softmax(prototype) || softmax(features of x)). The features are the mean output in the middle of the
        denoiser (inferred), the prototype of a text is the mean over its noised pictures, before the training, at the
        nearest of eight equally spaced times. Differs: pictures are not augmented. Anchors are not used.
        """
        retained, texts = require_retained("gs-lora-plus", request), TextEncodings.of(model)
        drawing = (self.pictures, self.picture_steps, self.picture_guidance, self.seed)
        forget, retain = (draw_latents(model, shown, *drawing) for shown in (request.targets, retained))
        prototypes = concept_prototypes(model, texts, [forget, retain], self.seed)
        trained, groups = self._adapters(model)
        errors = ConceptErrors(model, trained, forget, retain, self.batch_size, texts)
        pictures = hash_tensors({"forget": forget.latents, "retain": retain.latents})
        about = {"request": vars(request), "pictures": pictures}
        steps = training_budget(self.iterations, len(request.targets))
        return self._trained(trained, groups, self._loss(trained, groups, errors, prototypes), steps, about)

    def forget(self, classifier: ModuleView, request: ClassRequest) -> LowRankEdit:
        """Minimise the same loss with the cross-entropies and features of a classifier, those before its last map.

        Differs: the last running mean is the result; the authors keep the weights that are best on the test images.
        """
        prototypes = class_prototypes(classifier, [request.forget, request.retain])
        trained, groups = self._adapters(classifier)
        errors = ClassErrors(classifier, request, self.batch_size, self.seed)
        loss = self._loss(trained, groups, errors, prototypes)
        return self._trained(trained, groups, loss, self.iterations, {"images": request.hash})

    def _adapters(self, model: AnyModel) -> tuple[TrainableLowRank, Mapping[str, tuple[str, ...]]]:
        groups = adapter_groups(model, self.layers, "gs-lora-plus")
        return low_rank_on(model, groups, self.rank, self.seed), groups

    def _loss(
        self,
        trained: TrainableLowRank,
        groups: Mapping[str, tuple[str, ...]],
        errors: ErrorSource,
        prototypes: Prototypes,
    ) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
        factors = pairs_by_group(trained, groups)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            with record_features(trained.model) as seen:
                found = errors(step, rng)
            away, near = prototypes.distances(found, seen[-1])  # The student is asked last.
            alpha = self.alpha if step >= self.alpha_warm_up else 0.0
            return {
                "target": self.beta * bounded_ascent(found.forget, self.bnd),
                "retain": found.retain,
                "structure": alpha * group_sparsity(factors),
                "prototypes": self.w_f * bounded_ascent(away, self.bnd_pro) + self.w_r * near,
            }

        return loss

    def _trained(
        self,
        trained: TrainableLowRank,
        groups: Mapping[str, tuple[str, ...]],
        loss: Callable[[int, torch.Generator], dict[str, Tensor]],
        steps: int,
        about: Mapping[str, object],
    ) -> LowRankEdit:
        mean = RunningMean(self.ema_decay, int(self.ema_begin * steps))
        plan = TrainingPlan(
            steps, self.lr, "adamw", self.weight_decay, self.seed, [mean], rate=cosine_restarts(steps, 0, 1)
        )
        losses = train(trained, loss, plan, {"settings": settings_data(self), **about}, name="gs-lora-plus")
        mean.take_means(list(trained.tensors.values()))
        return trained.edit(loss_figures(losses) | group_figures(trained, groups))
