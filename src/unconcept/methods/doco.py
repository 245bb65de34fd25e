"""DoCo, domain correction with a gradient that preserves concepts: Wu et al., AAAI 2025, arXiv:2405.15304.

On noised images of the anchor, a discriminator teaches the denoiser to predict under the target images that look like
the anchor's. Gradient surgery takes away what would harm the anchor's own images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.forward import detach_first_token
from ..models.hooks.modules import cross_attention_maps, denoiser_parameters
from ..prompts.templates import check_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import TextEncodings
from ..training.gradient_transforms import GradientList
from ..training.gradients.surgery import clipped_surgery
from ..training.images.anchor_images import AnchorImages, anchor_pairs
from ..training.images.discriminator import Discriminator
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, Unreached, method

_TRAINED_GROUPS: dict[str, ParameterSelector] = {"cross-attn": "kv", "attn": "attn", "full-weight": "full"}
_PRIOR_FACTOR = 0.1  # of the prior where it is a summand


@method("doco", paper="arXiv:2405.15304", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class DoCo:
    """Fine-tunes the denoiser until a discriminator takes a target's images for its anchor's.

    Defaults from the authors' recipes for objects.
    """

    unreached: ClassVar[Unreached] = "nothing"

    parameter_group: Literal["cross-attn", "attn", "full-weight"] = "cross-attn"
    """Parameters to train."""
    surgery: Literal["exact", "authors", "none"] = "exact"
    """How the gradient against the prior is taken away; "none" adds a tenth of the prior's loss instead."""
    lambda_: float = 1.0
    """Share of the conflicting part that is taken away."""
    iterations: int = 2000
    """Training steps for up to four targets, warm-up included; more targets have more."""
    warm_up: int = 1000
    """First steps, in which only the discriminator learns."""
    lr: float = 4.8e-5
    """Learning rate: 6e-6 times batch, as with the authors' --scale_lr."""
    dlr: float = 1e-4
    """Learning rate of the discriminator; 5e-4 for styles."""
    batch_size: int = 8
    """Images in a step, and as many of the prior."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Longer gradients of each term are scaled down to this norm before surgery."""
    prior_loss_weight: float = 1.0
    """Weight of the anchor's own loss; with surgery only its direction counts."""
    noisiest: float = 1.0
    """Largest noise of an image, as a share of the timesteps: below 1 bounds what the discriminator sees (inferred)."""
    pictures: int = 1000
    """Images of the anchors, at least one for each target."""
    picture_steps: int = 25
    """Sampling steps of these images."""
    picture_guidance: float = 6.0
    """Guidance scale of these images (inferred)."""
    augment: bool = True
    """Show the images at random sizes, with targets' prompts that name the size; the authors do not for styles."""
    mirror: bool = True
    """Mirror half of the images."""
    anchor_prompts: str = ""
    """Captions that name the anchor: a packaged set or a file; "" uses sentences instead."""
    templates: tuple[str, ...] = ()
    """Those sentences, with {} in the concept's place; () takes thirty for its kind."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("doco", self.seed)
        for name in ("iterations", "warm_up", "lr", "dlr", "weight_decay", "prior_loss_weight", "picture_guidance"):
            require(getattr(self, name) >= 0, f"doco: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("batch_size", "max_grad_norm", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"doco: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.lambda_ <= 1, f"doco: lambda_ must be 0 to 1, got {self.lambda_}")
        require(0 < self.noisiest <= 1, f"doco: noisiest must be above 0 and at most 1, got {self.noisiest}")
        message = (
            f"doco: warm_up must be below iterations, got {self.warm_up} of {self.iterations}: nothing would train"
        )
        require(self.warm_up < max(1, self.iterations), message)
        check_sentences("doco", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise log(1 + exp(D(x0(x_t, p)))), without its conflict with |eps(x_t, p*) - noise|^2 of the anchor.

        x0 (b, c, h, w) are predicted latents under p, a prompt with the target, on noised images of the anchor; D is
        trained in each step to tell them (label 1) from those of the unedited model under p*, the same prompt with the
        anchor (label 0). Each term's gradient is clipped, and for each tensor <a, b> / <b, b> b is taken from the first
        if <a, b> < 0; the second is not followed. No gradient goes through keys and values of the start token. Differs:
        the inner product is exact, the authors' is of unit vectors (`surgery` "authors"); images and latents are as in
        Concept Ablation. Retained texts are not used.
        """
        trained = TrainableWeights(
            model, select_parameters(denoiser_parameters(model), _TRAINED_GROUPS[self.parameter_group])
        )
        count = max(training_budget(self.pictures, len(request.targets)), len(request.targets))
        data = AnchorImages.drawn(model, anchor_pairs("doco", model, request, self), self, count, needs_whole=True)
        critic = Discriminator(model, self.dlr, self.seed)
        loss = _DomainLoss(self, trained, data, TextEncodings.of(model), critic)
        theirs = self.surgery == "authors"
        plan = TrainingPlan(
            training_budget(self.iterations, len(request.targets)),
            self.lr,
            "adamw",
            self.weight_decay,
            self.seed,
            transforms=[_WarmUp(self.warm_up)],
            join=None
            if self.surgery == "none"
            else clipped_surgery("target", "prior", self.lambda_, self.max_grad_norm, theirs),
        )
        about = {"settings": settings_data(self), "request": vars(request), "pictures": data.hash}
        with detach_first_token(cross_attention_maps(model)):
            losses = train(trained, loss, plan, about, [critic], "doco")
        return trained.edit(loss_figures(losses))


@dataclass(frozen=True)
class _WarmUp:
    """Takes no step before so many are done; the optimizer does not count them."""

    steps: int

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        return gradients if step >= self.steps else None

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


@dataclass(frozen=True)
class _DomainLoss:
    """The terms of a step, in which the discriminator learns too."""

    settings: DoCo
    trained: TrainableWeights
    data: AnchorImages
    texts: TextEncodings
    critic: Discriminator

    def __call__(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        model, own = self.texts.model, self.settings
        z, _, anchors, targets = self.data.batch(own.batch_size, rng)
        x_t, t, _ = noise_latents(model, z, rng, self._timesteps(rng))
        with self.trained.teacher(), torch.no_grad():
            wanted = model.schedule.x0(model.denoise(x_t, t, self.texts(anchors)), x_t, t)
        if step < own.warm_up:
            return self._warming(x_t, t, targets, wanted)
        clean, named = self.data.whole(self.data.chosen(own.batch_size, rng), rng)
        x_p, t_p, noise = noise_latents(model, clean, rng, self._timesteps(rng))
        # Two calls: each term's gradient goes back through its own rows alone.
        said = model.schedule.x0(model.denoise(x_t, t, self.texts(targets)), x_t, t)
        prior = model.denoise(x_p, t_p, self.texts(named))
        factor = own.prior_loss_weight * (_PRIOR_FACTOR if own.surgery == "none" else 1.0)
        terms = {
            "target": self.critic.anchor_loss(said),
            "prior": factor * (prior - noise).float().square().mean(),
        }
        self.critic.learn(said, wanted)
        return terms

    def _warming(self, x_t: Tensor, t: Tensor, targets: Sequence[str], wanted: Tensor) -> dict[str, Tensor]:
        """Let the discriminator alone learn. The returned loss is its own, without a gradient."""
        model = self.texts.model
        with torch.no_grad():
            said = model.schedule.x0(model.denoise(x_t, t, self.texts(targets)), x_t, t)
        nothing = 0.0 * next(iter(self.trained.tensors.values())).sum()
        return {"target": nothing + self.critic.learn(said, wanted), "prior": nothing}

    def _timesteps(self, rng: torch.Generator) -> Tensor:
        """Draw uniform timesteps (b,) up to the noisiest."""
        levels = len(self.texts.model.schedule.alpha)
        return torch.randint(max(1, round(self.settings.noisiest * levels)), (self.settings.batch_size,), generator=rng)
