"""One-dimensional Adapter to Rule Them All (SPM): Lyu et al., CVPR 2024, arXiv:2312.16145.

A rank-1 adapter on every map of the denoiser's transformers unlearns a concept, while predictions under random states
are preserved. At run time the adapter is scaled by each prompt's likeness to the concept, so that adapters of many
concepts can be used at once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import GatedAdapter, GatedEdit
from ..edits.gated import GateCombination
from ..edits.gating import LikenessMetric, PromptLikeness
from ..models import Conditioning, ModelView
from ..models.hooks.modules import denoiser_modules, denoiser_parameters
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import GivenStates, TextEncodings, goal_predictions, keep_goal, negative_guidance_goal
from ..training.lr_schedules import cosine_restarts
from ..training.parameter_groups import select_parameters
from ..training.trajectories import GuidedSampler, PartialSampling
from .registry import NO_SERVICES, MethodServices, method

_LEAST_LENGTH, _MOST_LENGTH = 0.8, 1.2  # lengths of random states, relative to the target's


@method("spm", paper="arXiv:2312.16145", families=("sd1", "sd2", "sdxl", "sd3", "flux"), version=2)
@dataclass(frozen=True)
class SPM:
    """Trains rank-1 adapters that are scaled by each prompt's likeness to the target.

    Defaults from the authors' configs, the same for all kinds.
    """

    rank: int = 1
    """Rank of each adapter."""
    alpha: float = 1.0
    """Scale of the adapter, which is alpha / rank up down."""
    iterations: int = 3000
    """Training steps of an adapter for up to four targets; one for more targets has more."""
    lr: float = 1e-4
    """Learning rate."""
    lr_warmup_steps: int = 500
    """Steps until the learning rate is reached."""
    lr_scheduler_num_cycles: int = 3
    """Cycles of the cosine schedule with restarts."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW, its default (inferred)."""
    batch_size: int = 1
    """Latents in a step."""
    guidance_scale: float = 1.0
    """g: how far beyond the anchor a target is pushed; 0 maps it onto the anchor."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t; a constant in the authors' code."""
    max_denoising_steps: int = 30
    """Sampling steps of a trajectory."""
    action: Literal["erase_with_la", "erase"] = "erase_with_la"
    """Train with latent anchoring, or without."""
    la_strength: float = 1000.0
    """Weight of latent anchoring; the authors retune it for other base models."""
    sampling_batch_size: int = 4
    """Random states in a step."""
    adapters: Literal["one", "each"] = "one"
    """Train one adapter for all targets, or one for each, which are used together."""
    metric: LikenessMetric = "both"
    """Likeness by cosine of states (clipcos), by shared tokens (tokenuni), or the larger of the two."""
    floor: float = 0.0
    """Likeness that counts as 0, from 0 to below the ceiling: ours, because padded texts are all alike."""
    ceiling: float = 1.0
    """Likeness that counts as 1: ours, because the adapter was trained at 1, and unnamed wordings are less alike."""
    combine: GateCombination = "sum"
    """How to combine several adapters: their sum, or the formula of the authors' script."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("spm", self.seed)
        for name in ("iterations", "lr", "weight_decay", "start_guidance", "la_strength", "lr_warmup_steps"):
            require(getattr(self, name) >= 0, f"spm: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "alpha", "lr_scheduler_num_cycles", "batch_size"):
            require(getattr(self, name) > 0, f"spm: {name} must be > 0, got {getattr(self, name)}")
        require(
            self.guidance_scale >= -1,
            f"spm: guidance_scale must be >= -1 (-1 changes nothing), got {self.guidance_scale}",
        )
        require(self.max_denoising_steps > 1, f"spm: max_denoising_steps must be > 1, got {self.max_denoising_steps}")
        whole = self.sampling_batch_size > 0 and self.sampling_batch_size % self.batch_size == 0
        require(
            whole,
            f"spm: sampling_batch_size must be a multiple of batch_size {self.batch_size}, got"
            f" {self.sampling_batch_size}",
        )
        message = f"spm: floor must be 0 to below the ceiling, at most 1, got {self.floor} and {self.ceiling}"
        require(0 <= self.floor < self.ceiling <= 1, message)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> GatedEdit:
        """Minimise |eps(x_t, c) - (n - g (p - n))|^2 + la_strength mean_i |eps(x_t, a_i) - eps*(x_t, a_i)|^2.

        p and n are predictions of the unedited model eps* under the target c and its anchor, x_t (b, c, h, w) the
        edited model's own latents after 1 to N - 1 steps, a_i (l, d) random states. Retained texts are not used. In SD3
        and FLUX the adapters are on the maps of their blocks, and the likeness is by the states of all encoders and the
        tokens of the first (inferred).
        """
        # Differs: predictions are at the sampler's own timestep, that of its latents; the authors' is up to a step
        # noisier.
        # Differs: images have the model's own size; the authors sample other, smaller ones.
        # Differs: SDXL's trajectories are guided as they are; the authors rescale them by 0.7 after guidance.
        # Differs: AdamW keeps its moments in full; the authors' keeps 8 bits of them.
        anchors = dict(zip(request.targets, request.anchors, strict=True))
        groups = [(target,) for target in request.targets] if self.adapters == "each" else [request.targets]
        parts, losses = [], []
        for i, texts in enumerate(groups):
            own_anchors = {text: anchors[text] for text in texts}
            pairs, own_losses = self._trained(model, own_anchors, f"spm-{i}" if i else "spm")
            parts.append(GatedAdapter(texts, pairs))
            losses.append(own_losses)
        means = [sum(step) / len(step) for step in zip(*losses, strict=True)]
        return GatedEdit(
            tuple(parts),
            PromptLikeness(self.metric, self.floor, self.ceiling),
            self.combine,
            solve_figures=loss_figures(means),
        )

    def _trained(
        self, model: ModelView, anchors: dict[str, str], name: str
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], list[float]]:
        """Train one adapter for targets with their anchors; return its pairs and losses."""
        maps = denoiser_modules(model, select_parameters(denoiser_parameters(model), "transformer-maps"))
        trained = TrainableLowRank(model, maps, self.rank, self.seed, init="uniform", scale=self.alpha / self.rank)
        texts = TextEncodings.of(model)
        source = PartialSampling(
            GuidedSampler(model, texts, self.max_denoising_steps, self.start_guidance), tuple(anchors), 1, self.seed
        )
        rows, count = self.batch_size, self.sampling_batch_size if self.action == "erase_with_la" else 0

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            point = source.draw(step, rows, rng)
            target = point.prompts[0]
            strangers = [random_states(texts([target]), rng) for _ in range(count)]
            goals = [negative_guidance_goal(target, self.guidance_scale, reference=anchors[target])] * rows + [
                keep_goal(each) for each in strangers
            ]
            x_t, t = point.x_t.repeat(1 + count // rows, 1, 1, 1), point.t.repeat(1 + count // rows)
            with trained.teacher():
                (wanted,) = goal_predictions(model, texts, x_t, t, [goals])
            error = (model.denoise(x_t, t, texts([*point.prompts, *strangers])) - wanted).float().square()
            return {"target": error[:rows].mean()} | (
                {"anchoring": self.la_strength * error[rows:].mean()} if count else {}
            )

        steps = training_budget(self.iterations, len(anchors))
        rate = cosine_restarts(steps, self.lr_warmup_steps, self.lr_scheduler_num_cycles)
        plan = TrainingPlan(steps, self.lr, "adamw", self.weight_decay, self.seed, rate=rate)
        losses = train(trained, loss, plan, {"settings": settings_data(self), "anchors": anchors}, name=name)
        return dict(trained.edit({}).pairs), losses


@torch.no_grad()
def random_states(target: Conditioning, rng: torch.Generator) -> GivenStates:
    """Draw states (1, l, d) of a random direction and about the target's norm; a pooled text likewise.

    A draw is accepted with the probability 1 - cosine. Where the target's states are zero, such as the padding between
    SD3's encoders, the random ones are zero too (inferred).
    """
    while True:
        states = _random(target.states, rng)
        alike = torch.cosine_similarity(states.flatten().double(), target.states.flatten().double(), dim=0)
        if float(torch.rand((), generator=rng)) < 1 - float(alike):
            pooled = None if target.pooled is None else _random(target.pooled, rng)
            return GivenStates(Conditioning(states, pooled, target.time_ids))


def _random(like: Tensor, rng: torch.Generator) -> Tensor:
    length = _LEAST_LENGTH + (_MOST_LENGTH - _LEAST_LENGTH) * float(torch.rand((), generator=rng))
    found = torch.randn(like.shape, generator=rng).to(like) * (like != 0)
    scaled: Tensor = length * like.norm() / found.norm() * found
    return scaled
