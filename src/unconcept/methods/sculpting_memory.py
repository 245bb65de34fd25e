"""Sculpting Memory: ICCV 2025, arXiv:2504.09039 (dynamic mask and concept-aware loss).

Forgets concepts one after another: on images of each, the denoiser learns to predict it as its super-class. A mask over
the attention weights, updated during training, decides which of them may move. Distillation from the model of the
previous stage preserves what was forgotten before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import attention_linears, denoiser_parameters
from ..prompts.templates import check_sentences, refuse_named_targets
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.best_epoch import BestEpoch
from ..training.budget import training_budget
from ..training.goals import TextEncodings, goal_predictions, keep_goal
from ..training.gradient_transforms import DynamicWeightMask
from ..training.parameter_groups import select_parameters
from ..training.session import draw_or_rehearse
from ..training.trajectories import GuidedSampler, noise_latents
from .registry import NO_SERVICES, MethodServices, method

_RISING_SHARE, _FIRST_LR_SHARE, _LAST_LR_SHARE = (
    0.3,
    1 / 25,
    1 / 25e4,
)  # of torch's OneCycleLR: share of the steps that rise; lr at both ends, in parts of its peak


@method("sculpting-memory", paper="arXiv:2504.09039", families=("sd1", "sd2", "sdxl", "sd3", "flux"), version=2)
@dataclass(frozen=True)
class SculptingMemory:
    """Fine-tunes attention weights under a dynamic mask, concept by concept.

    Defaults from the authors' configs for Imagenette.
    """

    num_epochs: int = 10
    """Epochs of a stage on up to four targets; one on more targets has more."""
    batch_size: int = 2
    """Images in a step."""
    pictures: int = 100
    """Images of the concept, and as many of its super-class."""
    warmup_steps: int = 50
    """First steps, which only choose the mask."""
    mask_update_interval: int = 100
    """Steps between updates of the mask."""
    update_percent: float = 0.5
    """Share of each attention matrix that may move, above 0 and at most 1."""
    initial_turnover_fraction: float = 0.2
    """Initial share of the active entries that an update swaps; it falls as a cosine."""
    scale: float = 0.25
    """Weight of the super-class's own loss."""
    scale_kd: float = 0.25
    """Weight of the distance to the previous stage's model, under the super-class."""
    lr: float = 3e-6
    """Learning rate."""
    ca: bool = True
    """Train only cross-attention; else everything."""
    sequential: bool = True
    """One stage for each target, in order; False: one stage for all, if they are words for one concept."""
    prompt: str = "a photo of {}"
    """Prompt of training and images, with {} in the concept's place."""
    picture_steps: int = 50
    """Sampling steps of the images (inferred)."""
    picture_guidance: float = 7.5
    """Guidance scale of the images (inferred)."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": drop the term of `scale_kd`, and let momentum move entries that left the mask."""

    def __post_init__(self) -> None:
        check_seed("sculpting-memory", self.seed)
        for name in ("num_epochs", "batch_size", "mask_update_interval", "picture_steps"):
            require(getattr(self, name) > 0, f"sculpting-memory: {name} must be > 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "scale", "scale_kd", "lr", "picture_guidance"):
            require(getattr(self, name) >= 0, f"sculpting-memory: {name} must be >= 0, got {getattr(self, name)}")
        require(
            0 < self.update_percent <= 1,
            f"sculpting-memory: update_percent must be above 0 and at most 1, got {self.update_percent}",
        )
        turnover = self.initial_turnover_fraction
        require(0 <= turnover <= 1, f"sculpting-memory: initial_turnover_fraction must be 0 to 1, got {turnover}")
        require(
            self.pictures >= self.batch_size,
            f"sculpting-memory: pictures must be at least the batch_size of {self.batch_size}, got {self.pictures}",
        )
        learning = (
            f"sculpting-memory: warmup_steps {self.warmup_steps} leave none of the {self._steps} steps for learning:"
            " lower them, or raise num_epochs"
        )
        require(self.warmup_steps < self._steps, learning)
        needed = self.warmup_steps > 0 or self.update_percent == 1
        require(needed, "sculpting-memory: warmup_steps must be > 0 to choose the mask, got 0")
        check_sentences("sculpting-memory", (self.prompt,))

    @property
    def _steps(self) -> int:
        return self.num_epochs * (self.pictures // self.batch_size)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise, stage by stage, |eps(x_t, c) - sg eps(x_t, s)|^2 + scale |eps(y_t, s) - noise|^2 + scale_kd D.

        D = |eps(y_t, s) - eps_before(y_t, s)|^2. x_t, y_t (b, c, h, w) are noised images of target c and of its anchor,
        the super-class s, at one t; eps_before is the model at the start of the stage. The learning rate's cycle is as
        long as all steps and begins after the warm-up, so its last steps are never taken, as in the authors' code.
        Differs: latents come directly from sampling and are not decoded and encoded again; Adam's beta_1 does not
        follow the learning rate's cycle; warm-up losses do not count in the choice of the best epoch; a mask is not
        updated at the step that chose it, and a share of turnover that is less than one entry swaps none. Retained
        texts are not used.
        """
        refuse_named_targets("sculpting-memory", [self.prompt], request.targets)
        pairs = tuple(zip(request.targets, request.anchors, strict=True))
        stages = [(pair,) for pair in pairs] if self.sequential else [pairs]
        longer = self._for_targets(len(stages[0]))
        drawn = [longer._drawn(model, stage) for stage in stages]
        names = select_parameters(denoiser_parameters(model), "xattn" if self.ca else "full")
        found, losses = TrainableWeights(model, names), list[float]()
        with found.student():
            for number, (stage, latents) in enumerate(zip(stages, drawn, strict=True), 1):
                about = {
                    "settings": settings_data(self),
                    "request": vars(request),
                    "pictures": hash_tensors({"pictures": latents}),
                }
                now, own = longer._forgotten(model, stage, latents, names, about, f"sculpting-memory-{number}")
                losses += own
                with torch.no_grad():
                    for name, tensor in now.tensors.items():
                        found.student_parameters[name].copy_(tensor)
        return found.edit(loss_figures(losses))

    def _for_targets(self, count: int) -> "SculptingMemory":
        """Return these settings with the budget of a stage on so many targets, each with at least one image."""
        epochs = training_budget(self.num_epochs, count)
        return replace(self, num_epochs=epochs, pictures=max(self.pictures, count))

    def _forgotten(
        self,
        model: ModelView,
        pairs: Sequence[tuple[str, str]],
        latents: Tensor,
        names: tuple[str, ...],
        about: Mapping[str, object],
        name: str,
    ) -> tuple[TrainableWeights, list[float]]:
        """Train one stage on latents (2, n, c, h, w) of targets and super-classes.

        Returns the weights of its best epoch, and the losses after the warm-up.
        """
        trained, texts, epoch = (
            TrainableWeights(model, names),
            TextEncodings.of(model),
            self.pictures // self.batch_size,
        )
        best = BestEpoch(list(trained.tensors.values()), epoch)
        distils = self.scale_kd > 0 and self.compat != "authors"

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            best.start_step(step)
            rows = self._rows(step, epoch)
            targets = [self._said(pairs[i % len(pairs)][0]) for i in rows]
            supers = [self._said(pairs[i % len(pairs)][1]) for i in rows]
            x_t, t, noise = noise_latents(model, latents[0, rows], rng)
            if step < self.warmup_steps:
                return {"warm-up": mean_squared_error(model.denoise(x_t, t, texts(targets)), noise)}
            y_t, _, noise = noise_latents(model, latents[1, rows], rng, t)
            with torch.no_grad():
                wanted = model.denoise(x_t, t, texts(supers))
            said, kept = model.denoise(torch.cat([x_t, y_t]), t.repeat(2), texts([*targets, *supers])).chunk(2)
            terms = {"target": mean_squared_error(said, wanted), "super": self.scale * mean_squared_error(kept, noise)}
            if distils:
                with trained.teacher():
                    (before,) = goal_predictions(model, texts, y_t, t, [[keep_goal(text) for text in supers]])
                terms["before"] = self.scale_kd * mean_squared_error(kept, before)
            best.record_figure(terms["target"].item())
            return terms

        losses = train(trained, loss, self._plan(model, names), about, [best], name)
        best.restore_best()
        return trained, losses[self.warmup_steps :]

    def _plan(self, model: ModelView, names: tuple[str, ...]) -> TrainingPlan:
        """Build the plan. Only the matrices of attentions are masked; biases and other parameters are trained fully."""
        matrices, warm_up = attention_linears(model), self.warmup_steps
        mask = DynamicWeightMask(
            share=self.update_percent,
            warm_up=warm_up,
            interval=self.mask_update_interval,
            turnover=self.initial_turnover_fraction,
            epochs=self.num_epochs,
            epoch=self.pictures // self.batch_size,
            free=[name not in matrices for name in names],
            exact=self.compat != "authors",
        )
        return TrainingPlan(
            self._steps,
            self.lr,
            seed=self.seed,
            transforms=[mask],
            rate=lambda step: one_cycle_rate(step - warm_up, self._steps),
        )

    def _said(self, concept: str) -> str:
        return self.prompt.replace("{}", concept)

    def _rows(self, step: int, epoch: int) -> Tensor:
        """Return the images of a step: each epoch goes through all of them in its own random order."""
        number, place = divmod(step, epoch)
        order = torch.randperm(self.pictures, generator=torch.Generator().manual_seed(numbered_seed(self.seed, number)))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def _drawn(self, model: ModelView, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Sample latents (2, n, c, h, w) of the targets in turn, and of their super-classes with the target as negative
        prompt.
        """
        walk = GuidedSampler(model, TextEncodings.of(model), self.picture_steps, self.picture_guidance)
        rows = [pairs[i % len(pairs)] for i in range(self.pictures)]

        def draw(side: int, part: slice, steps: int) -> Tensor:
            seeds = [numbered_seed(2 * self.seed + side, i) for i in range(part.start, part.stop)]
            prompts = [self._said(pair[side]) for pair in rows[part]]
            negatives = [target for target, _ in rows[part]] if side else ()
            return walk.denoise_steps(walk.initial_latents(seeds), prompts, 0, steps, negatives)

        count, steps = self.pictures, self.picture_steps
        return torch.stack([draw_or_rehearse(model, count, steps, partial(draw, side)) for side in (0, 1)])


def mean_squared_error(said: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over all elements, computed in float32."""
    return (said - wanted).float().square().mean()


def one_cycle_rate(step: int, steps: int) -> float:
    """Return the factor of the peak learning rate: it rises along a half cosine, then falls to almost 0."""
    top = _RISING_SHARE * steps - 1
    begin, end, p = (
        (_FIRST_LR_SHARE, 1.0, step / top) if step <= top else (1.0, _LAST_LR_SHARE, (step - top) / (steps - 1 - top))
    )
    return end + (begin - end) / 2 * (1 + cos(pi * p))
