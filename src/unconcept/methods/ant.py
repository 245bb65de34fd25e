"""ANT, auto-steering denoising trajectories: Li et al., ACM MM 2025, arXiv:2504.12782.

Reverses the guidance towards a concept in the middle and late steps of its trajectories, and keeps the prediction in
the early ones, which decide the structure. One concept: the weights that gradient maps agree on. Many: an adapter for
each, fused in closed form. No images.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import SettingsError, require
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit, LowRankEdit
from ..edits.fuse import fuse_edits, prior_moments
from ..models import ModelView
from ..models.hooks.modules import denoiser_modules, denoiser_parameters
from ..models.text.state_rows import sentences_that_fit
from ..prompts.captions import load_captions
from ..prompts.templates import check_sentences, open_sentences, refuse_named_targets
from ..training import TrainableLowRank, TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import (
    GuidanceReference,
    TextEncodings,
    goal_predictions,
    keep_goal,
    negative_guidance_goal,
    reference_texts,
)
from ..training.gradient_transforms import WeightMask
from ..training.gradients.saliency import SaliencyPlan, intersect_saliency
from ..training.parameter_groups import select_parameters
from ..training.trainables import Trainable
from ..training.trajectories import GuidedSampler, NoisyLatents, PartialSampling, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, method

_MAP_LR = 1e-2  # at which the authors' maps step from gradient to gradient
_LatentSource = TrajectoryPool | PartialSampling


@method("ant", paper="arXiv:2504.12782", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class ANT:
    """Reverses a concept's guidance after the early steps, whose structure it keeps.

    Defaults from the authors' config for one concept; that for many is a recipe.
    """

    variant: Literal["saliency", "fusion"] = "saliency"
    """Train the weights that gradient maps agree on, or an adapter for each target and fuse them in closed form."""
    train_method: Literal["full", "xattn", "selfattn", "noxattn", "notime", "xlayer", "selflayer"] = "full"
    """Parameters to choose from in the variant saliency."""
    before_step: int = 7
    """Sampling steps of the early stage, of `ddim_steps`; 4 in the authors' code for many concepts."""
    negative_guidance: float = 1.0
    """eta, strength with which guidance is kept early and reversed later."""
    reference: GuidanceReference = "empty"
    """Text that guidance is reversed about: the empty one, or each target's anchor, which suits styles."""
    loss_guidance: float = 1.0
    """Guidance scale of the predictions that are compared; 7.5 in the authors' code for many concepts."""
    a1: float = 1.0
    """Weight of the early stage."""
    a2: float = 0.5
    """Weight of the empty text in both stages."""
    iterations: int = 250
    """Training steps for up to four targets, more targets have more; in the variant fusion those of each target."""
    lr: float = 5e-4
    """Learning rate."""
    batch_size: int = 1
    """Trajectories in a step, each with an early and a late point."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    start_guidance: float = 3.0
    """Guidance scale of a trajectory."""
    sampling: Literal["reference", "student"] = "student"
    """Model that samples trajectories: the unedited or the edited one; in the variant fusion always the former."""
    pool: int = 4
    """Trajectories of the unedited model that are sampled and used up together."""
    saliency_seeds: int = 5
    """Gradient maps of each target; 0: train all parameters."""
    saliency_steps: int = 10
    """Gradients that a map sums."""
    saliency_share: float = 0.5
    """Share of each tensor that a map keeps."""
    rank: int = 64
    """Rank of each target's adapter; its alpha is 1."""
    lora_scale: float = 4.3
    """Factor of the adapters as they are fused."""
    lamb: float = 1e-2
    """Pull of the fusion towards the old weights; 0 in the authors' code, which always has COCO's captions."""
    preserve_scale: float = 1e-4
    """Weight of captions and retained texts in the fusion (inferred)."""
    preserve_weight: float = 8e4
    """Weight of retained texts relative to captions, MACE's (inferred): the authors' scales theirs of unknown size."""
    prior: str = ""
    """Captions that the fusion keeps: a packaged set or a file; "" is none."""
    templates: tuple[str, ...] = ()
    """Sentences on which an adapter's effect is fused, with {} in the concept's place; () takes thirty of its kind."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": for one concept keep the last steps and reverse the others, give the empty text no gradient, and take
    the half of smallest gradients, of a model that moves; for many, adapt all maps, of which the fusion reads some.
    """

    def __post_init__(self) -> None:
        check_seed("ant", self.seed)
        at_least = {
            "negative_guidance": -1,
            "saliency_steps": 1,
            "rank": 1,
            "batch_size": 1,
            "ddim_steps": 1,
            "pool": 1,
        }
        weights = ("a1", "a2", "iterations", "lr", "start_guidance", "saliency_seeds", "lamb", "before_step")
        at_least |= dict.fromkeys((*weights, "preserve_scale", "preserve_weight", "lora_scale"), 0)
        for name, least in at_least.items():
            require(getattr(self, name) >= least, f"ant: {name} must be >= {least}, got {getattr(self, name)}")
        require(self.loss_guidance > 0, f"ant: loss_guidance must be > 0, got {self.loss_guidance}")
        require(
            self.before_step < self.ddim_steps,
            f"ant: before_step must be below ddim_steps, got {self.before_step} of {self.ddim_steps}",
        )
        share = self.saliency_share
        require(0 < share <= 1, f"ant: saliency_share must be above 0 and at most 1, got {share}")
        check_sentences("ant", self.templates)

    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> DenseEdit | LowRankEdit:
        """Minimise L3 + a2 L4 + a1 (L1 + a2 L2) over trajectories of the targets.

        With d = e*_c - e*_0 of the unedited model, at x_t (b, c, h, w): after `before_step` steps L3 = |e_c - (e*_0 -
        eta d)|^2, before them L1 = |e_c - (e*_0 + eta d)|^2; L4 and L2 = |e_0 - e*_0|^2 there. With a loss guidance g
        the predictions compared are e_0 + g (e_c - e_0) and d counts g times. Retained texts are kept by the fusion
        alone. Differs: predictions are at the sampler's own timesteps, the authors draw one nearby; with the reference
        `anchor`, L3's goal is e*_a - eta (e*_c - e*_a).
        """
        refuse_named_targets("ant", self.templates, request.targets)
        references = reference_texts("ant", request, self.reference)
        if self.variant == "fusion":
            return self._fused(model, request, references)
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), self.train_method))
        texts, steps = TextEncodings.of(model), training_budget(self.iterations, len(request.targets))
        walk, start = self._walk(model, texts), [own.detach() for own in trained.start.values()]
        source: _LatentSource = (
            PartialSampling(walk, request.targets, self._split, self.seed)
            if self.sampling == "student"
            else TrajectoryPool(
                walk, request.targets, self.pool, steps * self.batch_size, self.seed, lowest=self._split
            )
        )
        masks = self._masks(trained, _StagedLoss(self, trained, texts, references, source), request.targets, start)
        loss = _StagedLoss(self, trained, texts, references, source)
        rules = [WeightMask(start, masks)] if masks else []
        plan = TrainingPlan(steps, self.lr, seed=self.seed, transforms=rules)
        about = {"settings": settings_data(self), "request": vars(request)}
        return trained.edit(loss_figures(train(trained, loss, plan, about, name="ant")))

    @property
    def _is_swapped(self) -> bool:
        """Whether the last steps are kept and the others reversed, as in the authors' code for one concept."""
        return self.compat == "authors" and self.variant == "saliency"

    @property
    def _split(self) -> int:
        """Sampling steps done at which the later stage begins."""
        is_swapped = self._is_swapped and self.before_step > 0
        return self.ddim_steps - self.before_step if is_swapped else self.before_step

    def _walk(self, model: ModelView, texts: TextEncodings) -> GuidedSampler:
        return GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)

    def _masks(
        self, trained: TrainableWeights, loss: "_StagedLoss", targets: tuple[str, ...], start: list[Tensor]
    ) -> list[Tensor]:
        """Return what all gradient maps keep, one for each target and seed; [] if there are none.

        Differs: the gradients are those of the unedited model, and a map keeps the largest; the authors' code steps at
        lr 1e-2 in between and keeps the smallest half.
        """
        if not self.saliency_seeds:
            return []
        is_theirs = self.compat == "authors"
        plan = SaliencyPlan(
            self.saliency_steps, self.saliency_share, _MAP_LR if is_theirs else 0.0, is_theirs, "ant-saliency"
        )
        walk, each = loss.source.sampler, [target for target in targets for _ in range(self.saliency_seeds)]
        losses = [
            _StagedLoss(self, trained, loss.texts, loss.references, PartialSampling(walk, (target,), self._split))
            for target in each
        ]
        with trained.student():
            return intersect_saliency(list(trained.tensors.values()), start, losses, plan, self.seed)

    def _fused(self, model: ModelView, request: Request, references: Mapping[str, str]) -> DenseEdit | LowRankEdit:
        """Train an adapter of each target alone, then find the text maps that have each one's effect on its sentences.

        Differs: only text maps are adapted, because the fusion reads nothing else; the authors adapt every map.
        """
        message = (
            f"ant: the variant fusion needs maps that read the text alone, and those of {model.family} also read"
            " timestep and image: use the variant saliency"
        )
        require(model.spec.attention == "cross", message, SettingsError)
        texts, read = TextEncodings.of(model), set(model.text_maps())
        every = (name for name in select_parameters(denoiser_parameters(model), "maps") if name.endswith(".weight"))
        maps = denoiser_modules(model, every if self.compat == "authors" else sorted(read))
        forms = open_sentences("ant", request, self.templates)
        parts, losses = [], list[float]()
        for number, (target, anchor) in enumerate(zip(request.targets, request.anchors, strict=True)):
            seed = numbered_seed(self.seed, number)
            trained = TrainableLowRank(model, maps, self.rank, seed, "uniform", 1 / self.rank)
            rows = self.iterations * self.batch_size
            source = TrajectoryPool(self._walk(model, texts), (target,), self.pool, rows, seed, lowest=self._split)
            loss = _StagedLoss(self, trained, texts, references, source)
            about = {"settings": settings_data(self), "request": vars(request)}
            plan = TrainingPlan(self.iterations, self.lr, "adamw", seed=seed)
            losses += train(trained, loss, plan, about, name=f"ant-{number + 1}")
            own = {
                name: (self.lora_scale * up, down)
                for name, (up, down) in trained.edit({}).pairs.items()
                if name in read
            }
            held = sentences_that_fit(model, forms, target, anchor)
            parts.append((LowRankEdit(own), [form.replace("{}", target) for form in held]))
        kept = prior_moments(model, load_captions(self.prior), request.retain, 0, self.preserve_weight)
        fused = fuse_edits(model, parts, self.lamb, kept.weighted(self.preserve_scale))
        return replace(fused, solve_figures={**fused.solve_figures, **loss_figures(losses)})


@dataclass(frozen=True)
class _StagedLoss:
    """The loss of a step: reversed guidance at one point of a trajectory, kept guidance at another."""

    settings: ANT
    trained: Trainable
    texts: TextEncodings
    references: Mapping[str, str]
    source: _LatentSource

    def __call__(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        model, own = self.texts.model, self.settings
        points = self._points(step, rng)
        turned, *kept = points
        x, t = torch.cat([each.x_t for each in points]), torch.cat([each.t for each in points])
        prompts = [prompt for each in points for prompt in each.prompts]
        strength = own.negative_guidance * own.loss_guidance
        goals = [negative_guidance_goal(c, strength, self.references[c]) for c in turned.prompts]
        goals += [negative_guidance_goal(c, -strength) for each in kept for c in each.prompts]
        has_null = own.a2 > 0 or own.loss_guidance != 1
        empty = [[keep_goal("")] * len(x)] if has_null else []
        with self.trained.teacher():
            wanted = goal_predictions(model, self.texts, x, t, [goals, *empty])
        times = 1 + has_null
        said = model.denoise(
            x.repeat(times, 1, 1, 1), t.repeat(times), self.texts([*prompts, *[""] * (len(x) * has_null)])
        ).chunk(times)
        if has_null and own.compat == "authors" and own.variant == "saliency":
            said = (said[0], said[1].detach())
        guided = said[0] if own.loss_guidance == 1 else said[1] + own.loss_guidance * (said[0] - said[1])
        rows = len(turned.prompts)
        terms = _by_stage(guided, wanted[0], rows, {"target": 1.0, "early": own.a1})
        if own.a2:
            terms |= _by_stage(said[1], wanted[1], rows, {"null": own.a2, "early null": own.a1 * own.a2})
        return terms

    def _points(self, step: int, rng: torch.Generator) -> list[NoisyLatents]:
        """Draw the latents whose guidance is reversed, and then, if there is such a stage, those where it is kept."""
        own = self.settings
        with self.trained.teacher() if isinstance(self.source, TrajectoryPool) else nullcontext():
            if not own.before_step:
                return [self.source.draw(step, own.batch_size, rng)]
            late, early = self.source.draw_pair(step, own.batch_size, rng)
        turned, kept = (early, late) if own._is_swapped else (late, early)
        return [turned, kept] if own.a1 else [turned]


def _by_stage(said: Tensor, wanted: Tensor, rows: int, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the weighted mean squared error of the first `rows` rows (b, c, h, w), and of the rest if there is any."""
    error = (said - wanted).float().square()
    parts = zip(weights.items(), error.split(rows), strict=False)
    return {name: weight * part.mean() for (name, weight), part in parts}
