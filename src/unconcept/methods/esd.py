"""Erased Stable Diffusion (ESD): Gandikota et al., ICCV 2023, arXiv:2303.07345.

Fine-tunes the denoiser until it predicts for a target what the unedited model would predict under negative guidance.
No images.
"""

from collections.abc import Sequence
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
from ..models import ModelView
from ..models.families import FAMILIES
from ..models.hooks.modules import denoiser_parameters
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import text_in_turn, training_budget
from ..training.goals import (
    GuidanceReference,
    TextEncodings,
    goal_predictions,
    negative_guidance_goal,
    reference_texts,
)
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trajectories import GuidedSampler, PartialSampling, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, method, weights_data

_TRAIN_METHODS: dict[str, ParameterSelector] = {
    "x": "xattn",
    "strict": "kv",
    "u": "maps-noxattn",
    "all": "maps",
    "noxattn": "noxattn",
    "selfattn": "selfattn",
    "full": "full",
    "notime": "notime",
    "xlayer": "xlayer",
    "selflayer": "selflayer",
    # The same groups under their names in the authors' two scripts.
    "esd-x": "xattn",
    "esd-x-strict": "kv",
    "esd-u": "maps-noxattn",
    "esd-all": "maps",
    "xattn": "xattn",
}
_TrainMethod = Literal[
    "x",
    "strict",
    "u",
    "all",
    "noxattn",
    "selfattn",
    "full",
    "notime",
    "xlayer",
    "selflayer",
    "esd-x",
    "esd-x-strict",
    "esd-u",
    "esd-all",
    "xattn",
]


@method("esd", paper="arXiv:2303.07345", families=FAMILIES, version=2)
@dataclass(frozen=True)
class ESD:
    """Fine-tunes the denoiser towards negative guidance.

    Defaults from the authors' present `esd_sd.py`; the paper's own are a recipe.
    """

    weighs_targets: ClassVar[bool] = True

    train_method: _TrainMethod = "x"
    """Parameters to train: x for styles and names, u for objects."""
    negative_guidance: float = 1.0
    """eta of Eq. 5; the authors' present code uses eta + 1."""
    reference: GuidanceReference = "empty"
    """Text that negative guidance is taken about: the empty one, or each target's anchor, which suits styles."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t."""
    iterations: int = 200
    """Training steps for up to four targets; more targets have more."""
    lr: float = 5e-5
    """Learning rate."""
    batch_size: int = 1
    """Latents in a step."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    erase_from: str = ""
    """Erase the target only from this text, which keeps everything else; "" erases it from every text."""
    sampling: Literal["reference", "student"] = "reference"
    """Model that samples x_t: the unedited one (present code) or the edited one (paper)."""
    pool: int = 4
    """Trajectories of the unedited model that are sampled and used up together; 0: a new one for each x_t."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("esd", self.seed)
        require(
            self.negative_guidance >= -1,
            f"esd: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )
        for name in ("start_guidance", "iterations", "lr", "pool"):
            require(getattr(self, name) >= 0, f"esd: {name} must be >= 0, got {getattr(self, name)}")
        require(
            self.batch_size > 0 and self.ddim_steps > 0,
            f"esd: batch_size and ddim_steps must be > 0, got {self.batch_size} and {self.ddim_steps}",
        )

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |eps(x_t, c) - (eps*(x_t) - eta (eps*(x_t, c) - eps*(x_t)))|^2 (Eq. 5 and 6).

        eps* is the unedited model; x_t (b, c, h, w) are latents after a uniform number of sampler steps under a target.
        For SD3 and FLUX, x trains the text's maps of each block and u the image's (inferred). Where text and picture
        share all blocks, as in Z-Image, x trains the attention of the text's refiner and u is refused (inferred).
        Differs: one trajectory gives x_t at all of its steps; retained texts are not used. Differs: predictions are
        at the sampler's own timestep; the first script draws one from the same fiftieth. Differs: with the reference
        `anchor`, eps*(x_t) is the prediction under the target's anchor.
        """
        references = reference_texts("esd", request, self.reference)
        trained = TrainableWeights(
            model, select_parameters(denoiser_parameters(model), _TRAIN_METHODS[self.train_method])
        )
        texts = TextEncodings.of(model)
        walk = GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)
        drawn = (self.erase_from,) if self.erase_from else request.targets
        weights = services.weights_of(request)
        shares = None if self.erase_from else weights
        steps = training_budget(self.iterations, len(request.targets))
        pooled = self.sampling == "reference" and self.pool > 0
        source: TrajectoryPool | PartialSampling = (
            TrajectoryPool(walk, drawn, self.pool, steps * self.batch_size, self.seed, weights=shares)
            if pooled
            else PartialSampling(walk, drawn, seed=self.seed, weights=shares)
        )

        def loss(step: int, rng: torch.Generator) -> Tensor:
            with trained.teacher() if self.sampling == "reference" else nullcontext():
                point = source.draw(step, self.batch_size, rng)
            # The present code's form, e_f - (eta + 1) (e_c - e_0), is Eq. 5 if `erase_from` is empty: f = c.
            goals = [
                negative_guidance_goal(c, 1 + self.negative_guidance, references[c], start=self.erase_from or c)
                for c in self._named(request, point.prompts, step, weights)
            ]
            with trained.teacher():
                (wanted,) = goal_predictions(model, texts, point.x_t, point.t, [goals])
            said = model.denoise(point.x_t, point.t, texts(point.prompts))
            return (said - wanted).float().square().mean()

        plan = TrainingPlan(steps, self.lr, seed=self.seed)
        about = {"settings": settings_data(self), "request": vars(request)} | weights_data(services.weights)
        losses = train(trained, loss, plan, about, name="esd")
        return trained.edit(loss_figures(losses))

    def _named(
        self, request: Request, prompts: tuple[str, ...], step: int, weights: Sequence[float] | None
    ) -> tuple[str, ...]:
        """Return the target of each row: its prompt, or the targets in turn if the prompt was `erase_from`."""
        if not self.erase_from:
            return prompts
        rows = range(step * len(prompts), (step + 1) * len(prompts))
        return tuple(text_in_turn(row, request.targets, self.seed, weights) for row in rows)
