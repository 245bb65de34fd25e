"""Scissorhands: Wu and Harandi, ECCV 2024, arXiv:2401.06187.

Re-initialises the weights that are connected most to the pictures of the target, then repairs the model: others'
pictures are retained, the target's are relabelled as its anchor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..prompts.templates import check_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.gradient_memory import GradientMemory
from ..training.forgetting.relabel import PictureLosses, PseudoPrompt
from ..training.forgetting.saliency import sum_gradients
from ..training.goals import TextEncodings
from ..training.gradient_transforms import top_share_mask
from ..training.images.picture_sets import check_picture_settings, draw_forget_and_retain_sets
from ..training.parameter_groups import select_parameters
from .registry import NO_SERVICES, MethodServices, method

_NORMAL_STD, _NORMAL_CUT = 0.02, 2.0  # of UnlearnCanvas' truncated normal: its deviation, and its bounds


@method("scissorhands", paper="arXiv:2401.06187", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class Scissorhands:
    """Re-initialises the weights that hold the target, and repairs what else they held.

    Defaults from the authors' script for nudity.
    """

    train_method: Literal["full", "xattn", "noxattn", "selfattn", "notime"] = "full"
    """Parameters that the repair trains."""
    sparsity: float = 0.995
    """Share of all the denoiser's entries that is safe from re-initialisation: those of least saliency."""
    reset: Literal["late-selfattn", "selfattn", "xattn"] = "late-selfattn"
    """Layers whose other entries are re-initialised; xattn in UnlearnCanvas, selfattn in a joint transformer
    (inferred).
    """
    init: Literal["kaiming", "truncated-normal"] = "kaiming"
    """Fresh values of weights: uniform after Kaiming, or normal with deviation 0.02 (UnlearnCanvas); of biases 0."""
    forget: Literal["relabel", "ascent"] = "relabel"
    """Loss of the target's pictures: relabelled (nudity), or minus the diffusion loss (classes)."""
    lam: float = 0.1
    """lambda, weight of that loss; UnlearnCanvas' alpha."""
    prune_num: int = 10
    """Batches whose gradients' magnitudes are summed for the saliency."""
    project: bool = False
    """Keep every tenth gradient from going against those stored of the re-initialised model's ascent."""
    memory_num: int = 1
    """Gradients that are stored for it."""
    epochs: int = 5
    """Passes over the targets' pictures."""
    lr: float = 1e-5
    """Learning rate."""
    batch_size: int = 16
    """Pictures of the targets in a step, and as many of the retain set."""
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
    """Seed of all random numbers, fresh weights included."""

    def __post_init__(self) -> None:
        check_seed("scissorhands", self.seed)
        check_picture_settings("scissorhands", self)
        check_sentences("scissorhands", self.templates)
        for name in ("lam", "epochs", "lr"):
            require(getattr(self, name) >= 0, f"scissorhands: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("prune_num", "memory_num", "batch_size", "retain_pictures"):
            require(getattr(self, name) > 0, f"scissorhands: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.sparsity <= 1, f"scissorhands: sparsity must be 0 to 1, got {self.sparsity}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Re-initialise the entries of largest |w sum |dL/dw||, then minimise |eps(y_t, p) - eps|^2 + lam L_f.

        L = |eps(x_t, c) - eps|^2; L_f = |eps(x_t, c) - sg eps(x_t, r)|^2, or -L. x_t, y_t (b, c, h, w) are noised
        pictures of targets c and of the retain set p, r is the anchor's prompt. Saliencies are ranked over the whole
        denoiser, and entries outside the layers of `reset` keep their values: the edit's figures say how many did not.
        """
        # Differs: pictures take turns; the authors' loops draw a new first batch at each step.
        # Differs: the authors' pictures are given; without `images` the unedited model draws them, the retained ones
        # always.
        # Differs: of equal saliencies the first are re-initialised. Weights of norms, which the authors' layers do not
        # have, become 1 (inferred).
        everything = denoiser_parameters(model)
        trained = TrainableWeights(model, select_parameters(everything, self.train_method))
        reset = select_parameters(everything, self.reset, joint="selfattn" if self.reset == "late-selfattn" else None)
        untrained = sorted(set(reset) - set(trained.names))
        message = f"scissorhands: reset {self.reset} touches parameters that train_method {self.train_method} does not"
        require(not untrained, f"{message} train: choose one that does, such as full")
        forget, retain = draw_forget_and_retain_sets("scissorhands", model, request, self)
        losses = PictureLosses(model, TextEncodings.of(model), forget, retain, self.batch_size, self.pseudo)
        about = {
            "settings": settings_data(self),
            "request": vars(request),
            "pictures": [forget.hash, retain.hash],
        }
        count = self._reset(trained, self._salient(trained, losses, about), reset)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            own = losses.relabelled(step, rng) if self.forget == "relabel" else -losses.forgotten(step, rng)
            return {"target": self.lam * own, "retain": losses.retained(step, rng)}

        epochs = training_budget(self.epochs, len(request.targets)) if self.images else self.epochs
        steps = epochs * forget.steps_of_pass(self.batch_size)
        rules = [self._memory(trained, losses, about, reset)] if self.project else []
        plan = TrainingPlan(steps, self.lr, seed=self.seed, transforms=rules)
        found = train(trained, loss, plan, about, name="scissorhands")
        return trained.edit(loss_figures(found) | {"reset_weights": float(count)})

    def _salient(
        self, trained: TrainableWeights, losses: PictureLosses, about: Mapping[str, object]
    ) -> dict[str, Tensor]:
        """Return masks of the entries of largest saliency among all the denoiser's parameters, by their names."""
        every = select_parameters(denoiser_parameters(losses.model), "full")
        ranked = trained if self.train_method == "full" else TrainableWeights(losses.model, every)
        plan = TrainingPlan(self.prune_num, 0.0, seed=self.seed)
        sums = sum_gradients(ranked, losses.forgotten, plan, about, "scissorhands-saliency", of_magnitudes=True)
        weights = ranked.tensors.values()
        scores = [(total * w.detach()).abs() for total, w in zip(sums, weights, strict=True)]
        return dict(zip(ranked.tensors, top_share_mask(scores, 1 - self.sparsity), strict=True))

    @torch.no_grad()
    def _reset(self, trained: TrainableWeights, salient: dict[str, Tensor], reset: tuple[str, ...]) -> int:
        """Re-initialise the salient entries of the chosen layers in place, and return how many they are."""
        count = 0
        for number, name in enumerate(reset):
            param, mask = trained.student_parameters[name], salient[name]
            rng = torch.Generator().manual_seed(numbered_seed(self.seed, number))
            param.copy_(torch.where(mask, self._fresh(name, param, rng), param))
            count += int(mask.sum())
        return count

    def _fresh(self, name: str, param: Tensor, rng: torch.Generator) -> Tensor:
        """Return new values of a parameter: random for a weight, 0 for a bias, 1 for a norm's weight."""
        if name.endswith(".bias") or param.ndim < 2:
            return torch.full_like(param, float(not name.endswith(".bias")))
        fresh = torch.empty(param.shape)
        if self.init == "kaiming":
            torch.nn.init.kaiming_uniform_(fresh, nonlinearity="relu", generator=rng)
        else:
            torch.nn.init.trunc_normal_(fresh, std=_NORMAL_STD, a=-_NORMAL_CUT, b=_NORMAL_CUT, generator=rng)
        return fresh.to(param)

    def _memory(
        self, trained: TrainableWeights, losses: PictureLosses, about: Mapping[str, object], reset: tuple[str, ...]
    ) -> GradientMemory:
        """Store gradients of minus the diffusion loss on the target's pictures, by the re-initialised model."""

        def ascent(step: int, rng: torch.Generator) -> Tensor:
            return -losses.forgotten(step, rng)

        stored = []
        for number in range(self.memory_num):
            plan = TrainingPlan(1, 0.0, seed=numbered_seed(self.seed, number))
            stored.append(sum_gradients(trained, ascent, plan, about, f"scissorhands-memory-{number}"))
        return GradientMemory(stored, [name in reset for name in trained.names])
