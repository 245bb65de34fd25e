"""Noisy gradient descent: Chourasia and Shah, ICML 2023, arXiv:2210.08911 (Forget Unlearning).

The paper deletes records: it replaces them, and goes on with noisy steps whose gradients are clipped record by record,
from the released model alone. Here a target's pictures are replaced by its anchor's.
"""

from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.module_view import ModuleView
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.errors import mean_square, require_retained
from ..training.forgetting.examples import ClassRequest
from ..training.forgetting.noisy_steps import StepNoise, clipped_record_mean
from ..training.goals import TextEncodings
from ..training.gradient_transforms import StartDistancePenalty
from ..training.images.picture_sets import draw_latents
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, method


@method("noisy-gd", paper="arXiv:2210.08911", families=("sd1", "sd2", "sdxl", "sd3", "flux", "pixart"))
@dataclass(frozen=True)
class NoisyGD:
    """Fine-tunes on replaced records by noisy steps, whose gradients are clipped record by record.

    Adapted, and defaults are ours. No privacy is promised: what a model was trained on before, without noise, is in it
    for good, and a loss that is not convex has no known rate. Where bounds hold is `NoisyLinear`'s.
    """

    train_method: ParameterSelector = "kv"
    """Parameters to train of a diffusion model; of a classifier all."""
    iterations: int = 100
    """Training steps for up to four targets; more targets have more."""
    eta: float = 0.1
    """Step length."""
    clip: float = 1.0
    """L: the gradient of a record is scaled down to this norm."""
    lamb: float = 0.0
    """lambda: pull towards the weights before, lambda / 2 |w - w0|^2. Differs: the paper pulls towards 0."""
    sigma: float = 1e-4
    """Scale of the noise, whose deviation in a step is sqrt(2 eta) sigma."""
    batch_size: int = 4
    """Records in a step, half of them replaced ones. Differs: the paper's steps are on all records."""
    pictures: int = 24
    """Pictures of the anchors, and as many of the retained texts; at least one of each text."""
    picture_steps: int = 20
    """Sampling steps of these pictures."""
    picture_guidance: float = 4.0
    """Guidance scale of these pictures."""
    seed: int = 0
    """Seed of all random numbers, those of the noise among them: whoever knows it can take the noise away again."""

    def __post_init__(self) -> None:
        check_seed("noisy-gd", self.seed)
        for name in ("iterations", "eta", "lamb", "sigma", "picture_guidance"):
            require(getattr(self, name) >= 0, f"noisy-gd: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("clip", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"noisy-gd: {name} must be > 0, got {getattr(self, name)}")
        require(self.batch_size > 1, f"noisy-gd: batch_size must be at least 2, got {self.batch_size}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Step along the mean of clipped gradients of |eps(x_t, p) - noise|^2, each of one record (p, x).

        Records are the targets with pictures of their anchors, in place of those that are deleted, and the retained
        texts with pictures of their own; x_t (1, c, h, w) is a noised picture.
        """
        retained, texts = require_retained("noisy-gd", request), TextEncodings.of(model)
        drawing = (self.pictures, self.picture_steps, self.picture_guidance, self.seed)
        replaced = draw_latents(model, request.anchors, *drawing)
        names = [request.targets[i % len(request.targets)] for i in range(len(replaced.prompts))]
        replaced, kept = replace(replaced, prompts=tuple(names)), draw_latents(model, retained, *drawing)
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        half = self.batch_size // 2

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            counts = ((replaced, half), (kept, self.batch_size - half))
            (gone, named), (left, others) = (side.batch(step, rows) for side, rows in counts)
            x_t, t, noise = noise_latents(model, torch.cat([gone, left]), rng)
            # One call each: a record's gradient must not run through the others.
            said = [model.denoise(x_t[[i]], t[[i]], texts([prompt])) for i, prompt in enumerate([*named, *others])]
            return {f"record {i}": mean_square(own - noise[[i]]) for i, own in enumerate(said)}

        pictures = hash_tensors({"replaced": replaced.latents, "kept": kept.latents})
        about = {"settings": settings_data(self), "request": vars(request), "pictures": pictures}
        plan = self._plan(trained, training_budget(self.iterations, len(request.targets)))
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="noisy-gd")))

    def forget(self, classifier: ModuleView, request: ClassRequest) -> DenseEdit:
        """Step along the mean of clipped gradients of the cross-entropy on the records that stay.

        Differs: deleted records are left out, and not replaced by others.
        """
        trained = TrainableWeights(classifier, tuple(classifier.parameters()))

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            own = request.retain.batch(step, self.batch_size, self.seed)
            said = [classifier.network(x[None]) for x in own.x]
            return {f"record {i}": F.cross_entropy(row, own.y[[i]]) for i, row in enumerate(said)}

        about = {"settings": settings_data(self), "images": request.hash}
        plan = self._plan(trained, self.iterations)
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="noisy-gd")))

    def _plan(self, trained: TrainableWeights, steps: int) -> TrainingPlan:
        start = [tensor.detach().clone() for tensor in trained.tensors.values()]
        pull = StartDistancePenalty(start, self.lamb / 2 * sum(tensor.numel() for tensor in start))
        noise = StepNoise(sqrt(2 * self.eta) * self.sigma, numbered_seed(self.seed, 1))
        join = clipped_record_mean(self.clip)
        return TrainingPlan(steps, self.eta, "sgd", seed=self.seed, transforms=[pull, noise], join=join)
