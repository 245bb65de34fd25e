"""RGD, restricted gradients on diverse sets: Ko et al., NeurIPS 2024, arXiv:2412.07808 (Boosting Alignment).

Raises the denoising loss on images of the targets and lowers it on images of what is retained, along gradients that are
made free of each other. Both sets come from many prompts.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import fits_context, sentences_that_fit
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import TextEncodings
from ..training.gradients.surgery import summed_terms, two_way_surgery
from ..training.images.picture_sets import draw_pictures
from ..training.images.training_images import take_in_turn
from ..training.parameter_groups import select_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, Unreached, method


@method("rgd", paper="arXiv:2412.07808", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class RGD:
    """Unlearns images of targets and relearns those of what stays, along gradients free of each other.

    Defaults from the authors' script for nudity.
    """

    unreached: ClassVar[Unreached] = "nothing"

    train_method: Literal["full", "xattn", "kv", "attn"] = "full"
    """Parameters to train."""
    restricted: bool = True
    """Make both gradients free of each other; else they are added as they are (GradDiff)."""
    alpha: float = 1.6
    """Weight of the retained images' gradient."""
    m: float = 1.1
    """Loss on the targets' images above which they are not unlearned any further."""
    iterations: int = 100
    """Training steps for up to four targets, an epoch of the authors' images; more targets have more."""
    lr: float = 1e-5
    """Learning rate of Adam."""
    batch_size: int = 8
    """Images of either set in a step."""
    pictures: int = 800
    """Images of either set, at least one for each target."""
    picture_steps: int = 50
    """Sampling steps of these images (inferred)."""
    picture_guidance: float = 7.5
    """Guidance scale of these images (inferred)."""
    templates: tuple[str, ...] = ()
    """Sentences of the images, with {} in the concept's place; () takes thirty for its kind. One is no diverse set."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("rgd", self.seed)
        for name in ("alpha", "m", "iterations", "lr", "picture_guidance"):
            require(getattr(self, name) >= 0, f"rgd: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"rgd: {name} must be > 0, got {getattr(self, name)}")
        check_sentences("rgd", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Follow g_f* + alpha g_r*; g_f = -grad |eps(x_t, p) - noise|^2 on targets' images, g_r = grad of it on others.

        g_f* = g_f - <g_f, g_r> / <g_r, g_r> g_r and g_r* = g_r - <g_r, g_f> / <g_f, g_f> g_f if <g_f, g_r> < 0, over
        all trained parameters. Where the first loss is above m, g_f is 0: the authors divide the loss by itself there,
        which comes to the same. Differs: the unedited model draws both sets, the authors' are not published: a sentence
        with a target for the first, the same one with its anchor and the retained texts in turn for the second.
        """
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        texts = TextEncodings.of(model)
        count = max(training_budget(self.pictures, len(request.targets)), len(request.targets))
        sides = (take_in_turn(groups, count) for groups in self._prompts(model, request))
        forget, retain = (draw_pictures(model, prompts, self) for prompts in sides)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            found = []
            for images in (forget, retain):
                z, prompts = images.batch(step, self.batch_size)
                x_t, t, wanted = noise_latents(model, z, rng)
                found.append((model.denoise(x_t, t, texts(prompts)) - wanted).float().square().mean())
            is_within = found[0].item() <= self.m
            return {"forget": -found[0] if is_within else 0.0 * found[0], "retain": found[1]}

        join = two_way_surgery if self.restricted else summed_terms
        steps = training_budget(self.iterations, len(request.targets))
        plan = TrainingPlan(steps, self.lr, seed=self.seed, join=join("forget", "retain", self.alpha))
        about = {
            "settings": settings_data(self),
            "request": vars(request),
            "pictures": hash_tensors({"forget": forget.latents, "retain": retain.latents}),
        }
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="rgd")))

    def _prompts(self, model: ModelView, request: Request) -> tuple[list[list[str]], list[list[str]]]:
        """Return prompts of both sets, in groups that take turns: targets; anchors, with retained texts in between."""
        forms, forget, retain = open_sentences("rgd", request, self.templates), [], []
        for target, anchor in zip(request.targets, request.anchors, strict=True):
            held = sentences_that_fit(model, forms, target, anchor)
            forget.append([form.replace("{}", target) for form in held])
            retain += [[form.replace("{}", anchor) for form in held]] if anchor else []
        others = [text for text in request.retain if text and fits_context(model, text)]
        message = (
            "rgd: nothing to relearn: the anchors are empty and no text is retained: name an anchor, or texts to retain"
        )
        require(bool(retain or others), message, RequestError)
        anchors = retain or [[]]
        shared = [others[i :: len(anchors)] for i in range(len(anchors))]
        return forget, [group for pair in zip(anchors, shared, strict=True) for group in pair if group]
