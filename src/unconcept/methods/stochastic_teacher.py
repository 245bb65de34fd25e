"""Stochastic teacher network: Zhang et al., ADMA 2023, arXiv:2308.14322.

What is to be forgotten is learned from a network that was drawn at random and knows nothing; then what is retained is
learned again, from its own labels and from the network before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.module_view import ModuleView
from ..training import Optimizer, TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.forgetting.errors import mean_square, require_retained, softmax_divergence
from ..training.forgetting.examples import ClassRequest
from ..training.forgetting.random_teacher import RandomTeacher
from ..training.goals import TextEncodings
from ..training.images.picture_sets import PictureSet, draw_latents
from ..training.loop import StepLoss
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, method


@method("stochastic-teacher", paper="arXiv:2308.14322", families=("sd1", "sd2", "sdxl", "sd3", "flux", "pixart"))
@dataclass(frozen=True)
class StochasticTeacher:
    """Learns the targets from a random network, then what is retained from the network before.

    The paper's method is for classifiers: `forget`. For diffusion models it is adapted, and defaults are ours.
    """

    train_method: ParameterSelector = "kv"
    """Parameters to train and to draw anew, of a diffusion model; of a classifier all. A random UNet as a whole would
    say almost nothing but a constant, and wreck every prompt.
    """
    iterations: int = 60
    """Steps of erasing for up to four targets; more targets have more. The paper needs a single epoch."""
    repair_iterations: int = 60
    """Steps of repairing for up to four targets."""
    lr: float = 1e-3
    """Learning rate of both phases, each with an optimizer of its own."""
    optimizer: Optimizer = "adam"
    """Optimizer; one of two re-implementations has Adam, the other SGD."""
    batch_size: int = 4
    """Pictures in a step."""
    alpha: float = 1.0
    """Share of the network before in repairing; the rest is of the labels, or of the noise in the model's own pictures.

    One re-implementation has 0.1, the other 1.
    """
    pictures: int = 24
    """Pictures of the targets that the model draws, and as many of the retained texts; at least one of each text."""
    picture_steps: int = 20
    """Sampling steps of these pictures."""
    picture_guidance: float = 4.0
    """Guidance scale of these pictures."""
    seed: int = 0
    """Seed of all random numbers, the random network among them."""

    def __post_init__(self) -> None:
        check_seed("stochastic-teacher", self.seed)
        for name in ("iterations", "repair_iterations", "lr", "picture_guidance"):
            require(getattr(self, name) >= 0, f"stochastic-teacher: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"stochastic-teacher: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.alpha <= 1, f"stochastic-teacher: alpha is a share, 0 to 1, got {self.alpha}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |eps(x_t, c) - eps_R(x_t, c)|^2, then alpha |eps(y_t, r) - eps*(y_t, r)|^2 + (1 - alpha)
        |eps(y_t, r) - noise|^2.

        x_t, y_t (b, c, h, w) are noised pictures of targets c and of retained texts r, eps_R the denoiser with the
        trained parameters drawn at random, eps* the model before. The paper's KL divergence of two predictions is, for
        Gaussians of equal variance, their squared distance. Anchors are not used.
        """
        retained, texts = require_retained("stochastic-teacher", request), TextEncodings.of(model)
        drawing = (self.pictures, self.picture_steps, self.picture_guidance, self.seed)
        forget, retain = (draw_latents(model, shown, *drawing) for shown in (request.targets, retained))
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        stranger = RandomTeacher(trained, self.seed)

        def asked(side: PictureSet, step: int, rng: torch.Generator) -> tuple[Callable[[], Tensor], Tensor]:
            z, prompts = side.batch(step, self.batch_size)
            x_t, t, noise = noise_latents(model, z, rng)
            return lambda: model.denoise(x_t, t, texts(prompts)), noise

        def erasing(step: int, rng: torch.Generator) -> Tensor:
            predicted, _ = asked(forget, step, rng)
            with torch.no_grad(), stranger.predicting():
                wanted = predicted()
            return mean_square(predicted() - wanted)

        def repairing(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            predicted, noise = asked(retain, step, rng)
            with torch.no_grad(), trained.teacher():
                wanted = predicted()
            said = predicted()
            return self._mixed(mean_square(said - wanted), mean_square(said - noise))

        pictures = hash_tensors({"forget": forget.latents, "retain": retain.latents})
        about = {"request": vars(request), "pictures": pictures}
        steps = [training_budget(n, len(request.targets)) for n in (self.iterations, self.repair_iterations)]
        return self._in_two_phases(trained, (erasing, repairing), steps, about)

    def forget(self, classifier: ModuleView, request: ClassRequest) -> DenseEdit:
        """Minimise KL(R(x) || U(x)) on what is forgotten, then (1 - alpha) CE(U(x), y) + alpha KL(M(x) || U(x)).

        R is the classifier drawn at random, M the one before, U the student. The labels of what is forgotten are not
        used. How the two terms of repairing are combined is inferred.
        """
        trained = TrainableWeights(classifier, tuple(classifier.parameters()))
        stranger, network = RandomTeacher(trained, self.seed), classifier.network

        def erasing(step: int, rng: torch.Generator) -> Tensor:
            own = request.forget.batch(step, self.batch_size, self.seed)
            with torch.no_grad(), stranger.predicting():
                wanted = network(own.x)
            return softmax_divergence(wanted, network(own.x))

        def repairing(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            own = request.retain.batch(step, self.batch_size, self.seed)
            with torch.no_grad(), trained.teacher():
                wanted = network(own.x)
            said = network(own.x)
            return self._mixed(softmax_divergence(wanted, said), F.cross_entropy(said, own.y))

        steps = (self.iterations, self.repair_iterations)
        return self._in_two_phases(trained, (erasing, repairing), steps, {"images": request.hash})

    def _mixed(self, before: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"target": self.alpha * before, "labels": (1 - self.alpha) * labels}

    def _in_two_phases(
        self,
        trained: TrainableWeights,
        losses: tuple[StepLoss, StepLoss],
        steps: Sequence[int],
        about: Mapping[str, object],
    ) -> DenseEdit:
        about, figures = {"settings": settings_data(self), **about}, dict[str, float]()
        for phase, loss, count in zip(("erase", "repair"), losses, steps, strict=True):
            plan = TrainingPlan(count, self.lr, self.optimizer, seed=self.seed)
            found = train(trained, loss, plan, about, name=f"stochastic-teacher-{phase}")
            figures |= {f"{phase}_{name}": figure for name, figure in loss_figures(found).items()}
        return trained.edit(figures)
