"""EraseDiff: Wu et al., arXiv:2401.05779.

Retains by the diffusion loss on other pictures, under the constraint that the loss of forgetting, on pictures of the
target that are relabelled as its anchor, is about as small as a few steps on it alone can make it.
"""

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
from ..models.hooks.modules import denoiser_parameters
from ..prompts.templates import check_sentences
from ..training import Optimizer, TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.bilevel import ConstraintWeight, InnerPasses, follow_constraint
from ..training.forgetting.relabel import PictureLosses, PseudoPrompt
from ..training.goals import TextEncodings
from ..training.images.picture_sets import check_picture_settings, draw_forget_and_retain_sets
from ..training.parameter_groups import select_parameters
from .registry import NO_SERVICES, MethodServices, Unreached, method


@method("erasediff", paper="arXiv:2401.05779", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class EraseDiff:
    """Retains other pictures under the constraint that the targets' are forgotten.

    Defaults from the authors' script for nudity and from UnlearnCanvas' copy of it.
    """

    unreached: ClassVar[Unreached] = "nothing"

    train_method: Literal["xattn", "noxattn", "full", "selfattn", "notime", "xlayer", "selflayer"] = "xattn"
    """Parameters to train: noxattn for nudity, full for classes, xattn in UnlearnCanvas."""
    lambda_bome: float = 1.0
    """lambda, weight of the constraint; below 0 it is found at each step."""
    eta_bome: float = 0.1
    """eta, > 0: how fast the constraint must be met where lambda is found; a name of the authors' without a value
    (inferred).
    """
    K_steps: int = 2
    """K, inner passes over the targets' pictures in a round; they are taken back, and leave their mark on Adam."""
    epochs: int = 5
    """Rounds."""
    lr: float = 1e-5
    """Learning rate."""
    batch_size: int = 16
    """Pictures of the targets in a step, and as many of the retain set."""
    optimizer: Optimizer = "adam"
    """Optimizer of inner and outer steps, which share its state."""
    pseudo: PseudoPrompt = "anchor"
    """Prompt that the targets' pictures are relabelled as: with the anchor, or that of a retained picture."""
    pictures: int = 800
    """Pictures of up to four targets; more targets have more (the number: inferred)."""
    retain_pictures: int = 800
    """Pictures of the retain set (the number: inferred)."""
    images: str = ""
    """Folder of pictures of the target; "" lets the unedited model draw them."""
    retain_prompts: str = ""
    """Captions to retain beside the request's texts: a packaged set or a file."""
    templates: tuple[str, ...] = ("a photo of {}",)
    """Sentences with {} in a concept's place; () takes thirty for its kind."""
    picture_steps: int = 50
    """Sampling steps of the pictures (inferred)."""
    picture_guidance: float = 7.5
    """Guidance scale of the pictures (inferred)."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": an outer pass after each inner one, of which only the last is left, and lambda by the cosine."""

    def __post_init__(self) -> None:
        check_seed("erasediff", self.seed)
        check_picture_settings("erasediff", self)
        check_sentences("erasediff", self.templates)
        for name in ("K_steps", "epochs", "lr"):
            require(getattr(self, name) >= 0, f"erasediff: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("eta_bome", "batch_size", "retain_pictures"):
            require(getattr(self, name) > 0, f"erasediff: {name} must be > 0, got {getattr(self, name)}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise f(w) = |eps(y_t, p) - eps|^2 subject to q(w) = g(w) - g(w_K) <= 0, by steps f + lambda q.

        g(w) = |eps(x_t, c) - sg eps(x_t, r)|^2, with x_t, y_t (b, c, h, w) noised pictures of targets c and of the
        retain set p, r the anchor's prompt, and w_K the weights after K inner passes on g alone, which are taken back.
        g(w_K) is a constant: it moves nothing and is left out of the losses. So with one lambda and an optimizer
        without moments the inner passes have no effect, and with Adam only through its moments. The paper's lambda is
        max(0, eta - <f, q> / |q|^2) (inferred from BOME).
        """
        # Differs: pictures take turns; the authors' loops draw a new first batch at each step.
        # Differs: the authors' pictures are given; without `images` the unedited model draws them, the retained ones
        # always.
        # Differs: a regulariser acts in inner passes too; what they leave is only in Adam's moments.
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        forget, retain = draw_forget_and_retain_sets("erasediff", model, request, self)
        losses = PictureLosses(model, TextEncodings.of(model), forget, retain, self.batch_size, self.pseudo)
        rounds = training_budget(self.epochs, len(request.targets)) if self.images else self.epochs
        inner = InnerPasses(
            list(trained.tensors.values()),
            self.K_steps,
            forget.steps_of_pass(self.batch_size),
            "each" if self.compat == "authors" else "once",
        )
        fixed = self.lambda_bome >= 0

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            is_inner = inner.start_step(step)
            constraint = losses.relabelled(step, rng)
            if is_inner:
                return {"target": constraint}
            weighted = self.lambda_bome * constraint if fixed else constraint
            return {"target": weighted, "retain": losses.retained(step, rng)}

        rule: ConstraintWeight = "cosine" if self.compat == "authors" else "dynamic-barrier"
        join = None if fixed else follow_constraint("retain", "target", self.eta_bome, rule)
        plan = TrainingPlan(inner.steps(rounds), self.lr, self.optimizer, seed=self.seed, join=join)
        about = {
            "settings": settings_data(self),
            "request": vars(request),
            "pictures": [forget.hash, retain.hash],
        }
        return trained.edit(loss_figures(train(trained, loss, plan, about, [inner], "erasediff")))
