"""Saliency Unlearning (SalUn): Fan et al., ICLR 2024, arXiv:2310.12508.

Relabels pictures of the target as its anchor and retains others, in the weights alone whose gradients on the target's
pictures add up to most.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.diffusion.sampler import is_guidance_distilled
from ..models.hooks.modules import denoiser_parameters
from ..prompts.templates import check_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.relabel import PictureLosses, PseudoPrompt
from ..training.forgetting.saliency import sum_gradients
from ..training.goals import TextEncodings
from ..training.gradient_transforms import WeightMask, top_share_mask
from ..training.images.picture_sets import check_picture_settings, draw_forget_and_retain_sets
from ..training.parameter_groups import select_parameters
from .registry import NO_SERVICES, MethodServices, method


@method("salun", paper="arXiv:2310.12508", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class SalUn:
    """Relabels the target's pictures, in the weights that matter most for them.

    Defaults from the authors' scripts for a class.
    """

    train_method: Literal["full", "xattn", "noxattn", "selfattn", "notime", "xlayer", "selflayer"] = "full"
    """Parameters that the mask is chosen in and that are trained."""
    threshold: float = 0.5
    """Share of these parameters' entries that are trained, 0 to 1, ranked over all of them at once; 0.4 in
    UnlearnCanvas.
    """
    c_guidance: float = 7.5
    """w, guidance of the prediction whose gradients choose the mask; guidance-distilled models have none."""
    alpha: float = 0.1
    """Weight of the retained pictures' loss; 1 in UnlearnCanvas, 0: no retain set is needed."""
    epochs: int = 5
    """Passes over the targets' pictures: 5 for a class, 1 for nudity, 2 in UnlearnCanvas."""
    lr: float = 1e-5
    """Learning rate."""
    batch_size: int = 8
    """Pictures of the targets in a step, and as many of the retain set."""
    pseudo: PseudoPrompt = "anchor"
    """Prompt that the targets' pictures are relabelled as: with the anchor, or that of a retained picture."""
    pictures: int = 800
    """Pictures of up to four targets; more targets have more."""
    retain_pictures: int = 800
    """Pictures of the retain set."""
    images: str = ""
    """Folder of pictures of the target; "" lets the unedited model draw them."""
    retain_prompts: str = ""
    """Captions to retain beside the request's texts: a packaged set or a file."""
    templates: tuple[str, ...] = ("an image of a {}",)
    """Sentences with {} in a concept's place; () takes thirty for its kind."""
    picture_steps: int = 50
    """Sampling steps of the pictures (inferred)."""
    picture_guidance: float = 7.5
    """Guidance scale of the pictures (inferred)."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("salun", self.seed)
        check_picture_settings("salun", self)
        check_sentences("salun", self.templates)
        for name in ("c_guidance", "alpha", "epochs", "lr"):
            require(getattr(self, name) >= 0, f"salun: {name} must be >= 0, got {getattr(self, name)}")
        require(self.batch_size > 0, f"salun: batch_size must be > 0, got {self.batch_size}")
        require(0 <= self.threshold <= 1, f"salun: threshold must be 0 to 1, got {self.threshold}")
        needed = self.retain_pictures > 0 or (self.alpha == 0 and self.pseudo == "anchor")
        require(needed, "salun: retain_pictures must be > 0, unless alpha is 0 and pseudo is anchor; got 0")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |eps(x_t, c) - sg eps(x_t, r)|^2 + alpha |eps(y_t, p) - eps|^2 over the entries of a mask.

        x_t, y_t (b, c, h, w) are noised pictures of targets c and of the retain set p, r is the anchor's prompt. The
        mask is 1 on the largest |sum of d/dw |(1 + w) eps(x_t, c) - w eps(x_t, "") - eps|^2|, summed over one pass over
        the targets' pictures. For v and flow models their own training target replaces eps (inferred).
        """
        # Differs: pictures take turns in random order; of the authors' last batch of a pass there may be fewer.
        # Differs: the authors' pictures are given; without `images` the unedited model draws them, the retained ones
        # always.
        # Differs: exactly the share `threshold` is trained; of equal saliencies the first count.
        # Differs: the authors rank all of the denoiser's entries, whichever they train; with `full` it is the same.
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        with_retained = self.alpha > 0 or self.pseudo == "retain"
        drawn = self if with_retained else replace(self, retain_pictures=0)
        forget, retain = draw_forget_and_retain_sets("salun", model, request, drawn)
        losses = PictureLosses(model, TextEncodings.of(model), forget, retain, self.batch_size, self.pseudo)
        about = {
            "settings": settings_data(self),
            "request": vars(request),
            "pictures": [forget.hash, retain.hash],
        }
        masks = self._masks(trained, losses, about)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            terms = {"target": losses.relabelled(step, rng)}
            return terms | ({"retain": self.alpha * losses.retained(step, rng)} if self.alpha else {})

        epochs = training_budget(self.epochs, len(request.targets)) if self.images else self.epochs
        start = [tensor.detach().clone() for tensor in trained.tensors.values()]
        plan = TrainingPlan(
            epochs * forget.steps_of_pass(self.batch_size),
            self.lr,
            seed=self.seed,
            transforms=[WeightMask(start, masks)],
        )
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="salun")))

    def _masks(self, trained: TrainableWeights, losses: PictureLosses, about: Mapping[str, object]) -> list[Tensor]:
        """Choose the entries to train, as masks in the shapes of the trained tensors."""
        guidance = 0.0 if is_guidance_distilled(losses.model) else self.c_guidance
        plan = TrainingPlan(losses.forget.steps_of_pass(self.batch_size), 0.0, seed=self.seed)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            return losses.forgotten(step, rng, guidance)

        sums = sum_gradients(trained, loss, plan, about, "salun-saliency")
        return top_share_mask([total.abs() for total in sums], self.threshold)
