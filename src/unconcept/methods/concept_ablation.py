"""Concept Ablation: Kumari et al., ICCV 2023, arXiv:2303.13516.

Fine-tunes the denoiser on noised images of the anchor until it predicts under the target what it predicts under the
anchor.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import Conditioning, ModelView
from ..models.hooks.forward import detach_first_token
from ..models.hooks.modules import cross_attention_maps, denoiser_parameters
from ..models.text.parameters import encoder_parameters
from ..models.text.vocabulary import word_ids
from ..prompts.templates import check_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import TextEncodings
from ..training.gradient_transforms import GradientClip, GradientTransform, WeightMask
from ..training.images.anchor_images import AnchorImages, anchor_pairs
from ..training.parameter_groups import ParameterSelector, select_parameters, select_text_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, Unreached, method

_PARAMETER_GROUPS: dict[str, ParameterSelector] = {"cross-attn": "kv", "attn": "attn", "full-weight": "full"}


@method(
    "concept-ablation",
    paper="arXiv:2303.13516",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "zimage", "flux2", "flux2_klein", "qwenimage"),
    version=2,
)
@dataclass(frozen=True)
class ConceptAblation:
    """Fine-tunes the denoiser, on images of the anchor, to treat a target as its anchor.

    Defaults from the authors' recipe for one GPU.
    """

    unreached: ClassVar[Unreached] = "nothing"

    parameter_group: Literal["cross-attn", "attn", "full-weight", "embedding"] = "cross-attn"
    """Parameters to train; "embedding" trains the targets' rows of the token table."""
    target: Literal["model", "noise"] = "model"
    """Learn the prediction under the anchor, or the noise in the anchor's image."""
    target_model: Literal["student", "frozen"] = "student"
    """Model that predicts under the anchor."""
    iterations: int = 200
    """Training steps for up to four targets; more targets have more."""
    lr: float = 8e-6
    """Learning rate: 2e-6 times batch, as with the authors' --scale_lr, which also doubles it if there is a prior."""
    batch_size: int = 4
    """Images in a step."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    prior_loss_weight: float = 0.0
    """Weight of the anchor's own loss; use 1 if the target contains the anchor's word, and for harmful content."""
    pictures: int = 200
    """Images of the anchors, at least one for each target: as in the paper's own runs; a later script has 1000."""
    picture_steps: int = 25
    """Sampling steps of these images."""
    picture_guidance: float = 6.0
    """Guidance scale of these images (inferred)."""
    augment: bool = True
    """Show the images at random sizes, with targets' prompts that name the size; the authors do not for styles and
    harmful content.
    """
    mirror: bool = True
    """Mirror half of the images."""
    anchor_prompts: str = ""
    """Captions that name the anchor: a packaged set or a file; "" uses sentences instead."""
    templates: tuple[str, ...] = ()
    """Those sentences, with {} in the concept's place; () takes thirty for its kind."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("concept-ablation", self.seed)
        for name in ("iterations", "lr", "weight_decay", "prior_loss_weight", "picture_guidance"):
            require(getattr(self, name) >= 0, f"concept-ablation: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("batch_size", "max_grad_norm", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"concept-ablation: {name} must be > 0, got {getattr(self, name)}")
        check_sentences("concept-ablation", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise the mean over images of sum_xy |eps(x_t, p) - sg eps(x_t, p*)|^2.

        p* is a prompt with the anchor, p the same with the target. No gradient goes through keys and values of the
        start token. Images of harmful and explicit requests are generated with the target as negative prompt. The prior
        is the plain diffusion loss on whole images. Differs: the model's own sampler generates the images, the authors'
        are by DPM-Solver++; latents are the posterior's mean, theirs are drawn from it; without `augment` the mask is
        whole, theirs lacks a cell at each edge. Retained texts are not used. "embedding" trains SDXL's two tables
        together (inferred).
        """
        trained = TrainableWeights(model, self._names(model))
        count = max(training_budget(self.pictures, len(request.targets)), len(request.targets))
        pairs = anchor_pairs("concept-ablation", model, request, self)
        data = AnchorImages.drawn(model, pairs, self, count, not self.augment or self.prior_loss_weight > 0)
        # The table changes the encodings, so each text is encoded by the current model, with its gradient.
        texts: Callable[[Sequence[str]], Conditioning] = (
            model.condition if self.parameter_group == "embedding" else TextEncodings.of(model)
        )

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            z, mask, anchors, targets = data.batch(self.batch_size, rng)
            x_t, t, wanted = noise_latents(model, z, rng)
            if self.target == "model":
                with torch.no_grad(), trained.teacher() if self.target_model == "frozen" else nullcontext():
                    wanted = model.denoise(x_t, t, texts(anchors))
            terms = {"target": masked_error(model.denoise(x_t, t, texts(targets)), wanted, mask)}
            if self.prior_loss_weight:
                z, anchors = data.whole(data.chosen(self.batch_size, rng), rng)
                x_t, t, noise = noise_latents(model, z, rng)
                said = model.denoise(x_t, t, texts(anchors))
                terms["prior"] = self.prior_loss_weight * (said - noise).float().square().mean()
            return terms

        rules: list[GradientTransform] = [GradientClip(self.max_grad_norm)]
        if self.parameter_group == "embedding":
            rules.insert(0, restrict_to_target_rows(model, trained, request.targets))
        steps = training_budget(self.iterations, len(request.targets))
        plan = TrainingPlan(steps, self.lr, "adamw", self.weight_decay, self.seed, transforms=rules)
        about = {"settings": settings_data(self), "request": vars(request), "pictures": data.hash}
        with detach_first_token(cross_attention_maps(model)):
            losses = train(trained, loss, plan, about, name="concept-ablation")
        return trained.edit(loss_figures(losses))

    def _names(self, model: ModelView) -> tuple[str, ...]:
        if self.parameter_group != "embedding":
            return select_parameters(denoiser_parameters(model), _PARAMETER_GROUPS[self.parameter_group])
        message = (
            f"concept-ablation: {model.family} has no single token table for parameter_group embedding: choose"
            f" {', '.join(_PARAMETER_GROUPS)}"
        )
        require(bool(model.spec.clip_encoders), message)
        return tuple(
            name for own in encoder_parameters(model).values() for name in select_text_parameters(own, "text-tokens")
        )


def restrict_to_target_rows(model: ModelView, trained: TrainableWeights, targets: Sequence[str]) -> WeightMask:
    """Build a mask that trains only the targets' rows of each token table (v, d), except padding such as SD 2's "!"."""
    ids = {token for target in targets for token in word_ids(model.tokenizer, target)} - {
        each.pad for each in model.tokenizers
    }
    start = [own.detach() for own in trained.start.values()]
    rows = [
        torch.isin(torch.arange(len(own), device=own.device), torch.tensor(sorted(ids), device=own.device))
        for own in start
    ]
    return WeightMask(start, [row[:, None].expand_as(own) for row, own in zip(rows, start, strict=True)])


def masked_error(said: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Return the squared error summed over channels, averaged over the cells of each image's mask, then over images.

    `mask` is (b, 1, h, w).
    """
    error = (mask * (said - wanted).float().square()).flatten(1).sum(1)
    return (error / mask.flatten(1).sum(1)).mean()
