"""Receler, reliable concept erasing via lightweight erasers: Huang et al., ECCV 2024, arXiv:2311.17717.

A small network after each cross-attention unlearns a concept, against soft tokens that are searched to bring it back.
A mask keeps its effect to the places of the image that attend to the concept.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import AdapterEdit
from ..models import Conditioning, ModelView
from ..models.hooks.attention_maps import record_attention, text_attentions
from ..models.hooks.modules import denoiser_modules
from ..models.text.state_rows import content_positions, positions_after
from ..training import Descent, TrainableErasers, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import (
    GuidanceReference,
    TextEncodings,
    goal_predictions,
    keep_goal,
    negative_guidance_goal,
    reference_texts,
)
from ..training.images.object_masks import mean_attention, object_mask, outside_mask_energy
from ..training.trajectories import GuidedSampler, PartialSampling
from .registry import NO_SERVICES, MethodServices, method, weights_data


@method("receler", paper="arXiv:2311.17717", families=("sd1", "sd2", "sdxl", "sd3", "flux"), version=2)
@dataclass(frozen=True)
class Receler:
    """Trains erasers after cross-attentions, against adversarial soft tokens.

    Defaults from the authors' command line, one for all kinds.
    """

    weighs_targets: ClassVar[bool] = True

    iterations: int = 500
    """Training steps for up to four targets; more targets have more."""
    lr: float = 3e-4
    """Learning rate of the erasers."""
    eraser_rank: int = 128
    """Width of each eraser's bottleneck."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t."""
    negative_guidance: float = 1.0
    """eta, strength of the negative guidance."""
    reference: GuidanceReference = "empty"
    """Text that negative guidance is taken about: the empty one, or each target's anchor, which suits styles."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    concept_reg_weight: float = 0.1
    """Weight of the erasers' output outside the mask."""
    mask_thres: float = 0.1
    """tau, threshold of the mask on attention rescaled to 0 to 1."""
    mask_side: int = 16
    """The attentions whose side is nearest to this make the mask."""
    advrs_iters: int = 50
    """Steps of the search in each iteration; 0: no search."""
    num_advrs_prompts: int = 16
    """Soft tokens after the target's own."""
    advrs_lr: float = 0.1
    """Learning rate of the search for soft tokens."""
    advrs_weight_decay: float = 0.1
    """Weight decay of that search."""
    batch_size: int = 1
    """Latents in a step."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": ignore the soft tokens, as if there were no search."""

    def __post_init__(self) -> None:
        check_seed("receler", self.seed)
        for name in (
            "iterations",
            "lr",
            "start_guidance",
            "concept_reg_weight",
            "advrs_iters",
            "advrs_lr",
            "advrs_weight_decay",
        ):
            require(getattr(self, name) >= 0, f"receler: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("eraser_rank", "mask_side", "num_advrs_prompts", "batch_size"):
            require(getattr(self, name) > 0, f"receler: {name} must be > 0, got {getattr(self, name)}")
        require(
            self.negative_guidance >= -1,
            f"receler: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )
        require(self.ddim_steps > 1, f"receler: ddim_steps must be > 1, got {self.ddim_steps}")
        require(0 <= self.mask_thres <= 1, f"receler: mask_thres must be 0 to 1, got {self.mask_thres}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> AdapterEdit:
        """Minimise |eps(x_t, c + P) - (e_0 - eta (e_c - e_0))|^2 + concept_reg_weight mean_l |A_l (1 - M)|^2.

        e_0 and e_c are the unedited model's predictions under the empty text and the target, x_t (b, c, h, w) the
        edited model's own latents, A_l (b, p, d) the output of the eraser of layer l, M the mask of places where the
        unedited model attends to the target. P (k, d) after the target's rows minimises |eps(x_t, c + P) - e_c|^2 and
        continues from iteration to iteration. Retained texts are not used. In SD3 and FLUX, erasers follow the image's
        output map of each joint attention; P is in every encoder's rows (inferred).
        """
        # Differs: with the reference `anchor`, e_0 is the prediction under the target's anchor.
        # Differs: predictions are at the sampler's own timestep and never at finished images; the authors draw one from
        # the same fiftieth.
        # Differs: we use the soft tokens; the authors' script writes them into a copy, so its denoiser gets the bare
        # target.
        # Differs: the last gradient of a search comes from a call of its own, not from that of the erasers' loss.
        places, references = text_attentions(model), reference_texts("receler", request, self.reference)
        trained = TrainableErasers(
            model, denoiser_modules(model, [f"{name}.to_out.0.weight" for name in places]), self.eraser_rank, self.seed
        )
        texts, (_, height, width) = TextEncodings.of(model), model.latent_shape
        walk = GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)
        source = PartialSampling(walk, request.targets, 1, self.seed, weights=services.weights_of(request))
        searched = enumerate(request.targets) if self.advrs_iters > 0 and self.compat != "authors" else ()
        searches = {target: _Search(model, texts([target]), target, self, i) for i, target in searched}
        looked_for = {target: list(chain(*content_positions(model, target))) for target in request.targets}

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            point = source.draw(step, self.batch_size, rng)
            target, rows = point.prompts[0], len(point.x_t)
            away = negative_guidance_goal(target, self.negative_guidance, references[target])
            goals = [[keep_goal(target)] * rows, [away] * rows]
            with trained.teacher(), record_attention(model, places, looked_for[target]) as seen:
                said, wanted = goal_predictions(model, texts, point.x_t, point.t, goals)
            # The first rows of that call are those under the target.
            maps = (mean_attention(found[0][:rows], (height, width)) for found in seen.values())
            mask = object_mask(maps, self.mask_side, self.mask_thres)
            given = searches[target].found(point.x_t, point.t, said) if searches else texts(point.prompts)
            error = (model.denoise(point.x_t, point.t, given) - wanted).float().square().mean()
            return {"target": error, "outside": self.concept_reg_weight * outside_mask_energy(trained.given, mask)}

        plan = TrainingPlan(training_budget(self.iterations, len(request.targets)), self.lr, seed=self.seed)
        about = {"settings": settings_data(self), "request": vars(request)} | weights_data(services.weights)
        losses = train(trained, loss, plan, about, [search.descent for search in searches.values()], "receler")
        return trained.edit(loss_figures(losses))


@dataclass
class _Search:
    """Searches soft tokens that make the edited model predict the target as before.

    They overwrite the rows after the target's own, including the end token's.
    """

    model: ModelView
    given: Conditioning  # of the target, one row
    target: str
    settings: Receler
    number: int
    at: Tensor = field(init=False)  # (k,) rows
    descent: Descent = field(init=False)  # of the tokens (1, k, d), which start uniform in 0 to 1

    def __post_init__(self) -> None:
        own, device = self.settings, self.model.device
        self.at = torch.tensor(positions_after(self.model, self.target, own.num_advrs_prompts), device=device)
        wanted = own.num_advrs_prompts * len(content_positions(self.model, self.target))
        message = (
            f"receler: num_advrs_prompts {own.num_advrs_prompts}: the text encoder has fewer rows after"
            f" {self.target!r}: lower it"
        )
        require(len(self.at) == wanted, message)
        rng = torch.Generator().manual_seed(numbered_seed(own.seed, self.number))
        tokens = torch.rand(1, len(self.at), self.given.states.shape[-1], generator=rng).to(device).requires_grad_()
        self.descent = Descent([tokens], own.advrs_lr, "adam", own.advrs_weight_decay)

    def found(self, x_t: Tensor, t: Tensor, said: Tensor) -> Conditioning:
        """Search, and return the target with the rows from before the last step (b, l, d), without a gradient."""

        def apart(step: int, rng: torch.Generator) -> Tensor:
            return (
                (self.model.denoise(x_t, t, self._laid(self.descent.params[0], len(x_t))) - said)
                .float()
                .square()
                .mean()
            )

        self.descent.run(apart, self.settings.advrs_iters - 1)
        laid = self._laid(self.descent.params[0].detach().clone(), len(x_t))
        self.descent.run(apart, 1)
        return laid

    def _laid(self, rows: Tensor, count: int) -> Conditioning:
        given = self.given.rows(torch.zeros(count, dtype=torch.long, device=self.model.device))
        return Conditioning(
            given.states.index_copy(1, self.at, rows.to(given.states).expand(count, -1, -1)),
            given.pooled,
            given.time_ids,
        )
