"""All but One: Hong, Lee, Woo, AAAI 2024, arXiv:2312.12807. A reconstruction: the authors published no code.

Edits the classifier-guidance term, the conditional prediction minus the unconditional one, towards that of a
replacement, and holds the unconditional prediction fixed. No images.
"""

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
from ..models.hooks.modules import denoiser_parameters
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import PredictionGoal, TextEncodings, goal_predictions, keep_goal, negative_guidance_goal
from ..training.parameter_groups import select_parameters
from ..training.trajectories import GuidedSampler, PartialSampling, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, method, weights_data


@method("all-but-one", paper="arXiv:2312.12807", families=("sd1", "sd2", "sdxl", "sd3", "flux"), version=2)
@dataclass(frozen=True)
class AllButOne:
    """Moves the guidance term of the target to that of its anchor.

    The idea is the paper's, of which we read abstract and first figure; all hyperparameters are ours (inferred).
    """

    weighs_targets: ClassVar[bool] = True

    train_method: Literal["kv", "xattn", "full"] = "kv"
    """Keys and values of cross-attention, all of it, or the whole denoiser."""
    lamb: float = 1.0
    """lambda, weight of the unconditional constraint; > 0 in the variant joint."""
    eta: float | None = None
    """Repulsion from the target's guidance term, >= 0; None: 0 with an anchor, 1 if the anchor is ""."""
    variant: Literal["joint", "stop-gradient"] = "joint"
    """Whether the guidance term also trains the unconditional prediction (joint), or only the constraint does."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t, >= 0."""
    iterations: int = 500
    """Training steps for up to four targets; more targets have more."""
    lr: float = 1e-5
    """Learning rate."""
    batch_size: int = 1
    """Latents in a step."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    sampling: Literal["reference", "student"] = "reference"
    """Model that samples x_t: the unedited one or the edited one."""
    pool: int = 4
    """Trajectories of the unedited model that are sampled and used up together; 0: a new one for each x_t."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("all-but-one", self.seed)
        require(self.eta is None or self.eta >= 0, f"all-but-one: eta must be >= 0, got {self.eta}")
        for name in ("lamb", "start_guidance", "iterations", "lr", "pool"):
            require(getattr(self, name) >= 0, f"all-but-one: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("batch_size", "ddim_steps"):
            require(getattr(self, name) > 0, f"all-but-one: {name} must be > 0, got {getattr(self, name)}")
        require(
            self.lamb > 0 or self.variant == "stop-gradient",
            "all-but-one: lamb must be > 0 in the variant joint, got 0: adding one vector to both predictions would"
            " cost nothing; use the variant stop-gradient, or raise lamb",
        )

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |(e_c - e_0) - ((e*_r - e*_0) - eta (e*_c - e*_0))|^2 + lamb |e_0 - e*_0|^2 at x_t.

        e are predictions under the target c, the empty text 0 and the anchor r; e* are those of the unedited model; x_t
        (b, c, h, w) are latents after a uniform number of sampler steps under a target. Everything but these two terms
        is inferred. Retained texts are not used: the constraint preserves by itself. FLUX samples without a guidance
        term, so the bracket is a surrogate there and nothing subtracts e_0: use a larger lamb (inferred).
        """
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        texts, anchors = TextEncodings.of(model), dict(zip(request.targets, request.anchors, strict=True))
        steps = training_budget(self.iterations, len(request.targets))
        source = self._source(
            GuidedSampler(model, texts, self.ddim_steps, self.start_guidance), request, steps, services
        )

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            with trained.teacher() if self.sampling == "reference" else nullcontext():
                point = source.draw(step, self.batch_size, rng)
            moved = [self._goal(target, anchors[target]) for target in point.prompts]
            empty = [keep_goal("")] * len(moved)
            with trained.teacher():
                wanted, wanted_empty = goal_predictions(model, texts, point.x_t, point.t, [moved, empty])
            said, said_empty = model.denoise(
                point.x_t.repeat(2, 1, 1, 1), point.t.repeat(2), texts([*point.prompts, *[""] * len(moved)])
            ).chunk(2)
            beside = said_empty if self.variant == "joint" else said_empty.detach()
            gap = (said - beside) - (wanted - wanted_empty)
            return {
                "target": gap.float().square().mean(),
                "null": self.lamb * (said_empty - wanted_empty).float().square().mean(),
            }

        about = {"settings": settings_data(self), "request": vars(request)} | weights_data(services.weights)
        losses = train(trained, loss, TrainingPlan(steps, self.lr, seed=self.seed), about, name="all-but-one")
        return trained.edit(loss_figures(losses))

    def _source(
        self, sampler: GuidedSampler, request: Request, steps: int, services: MethodServices
    ) -> TrajectoryPool | PartialSampling:
        targets, weights = request.targets, services.weights_of(request)
        if self.sampling == "reference" and self.pool:
            return TrajectoryPool(sampler, targets, self.pool, steps * self.batch_size, self.seed, weights=weights)
        return PartialSampling(sampler, targets, seed=self.seed, weights=weights)

    def _goal(self, target: str, anchor: str) -> PredictionGoal:
        """Build the goal e*_0 plus the wanted guidance term: e*_r - eta (e*_c - e*_0)."""
        eta = float(anchor == "") if self.eta is None else self.eta
        return negative_guidance_goal(target, eta, start=anchor)
