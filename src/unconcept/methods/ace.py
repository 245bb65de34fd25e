"""ACE, Anti-Editing Concept Erasure: Wang et al., CVPR 2025, arXiv:2501.01633.

A rank-4 adapter writes the guidance away from a concept into the unconditional prediction too. So classifier-free
guidance subtracts the concept even where no prompt names it, as when a picture is edited.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import DataError, RequestError, require
from ..core.regular_files import require_regular_file
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import LowRankEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_modules, denoiser_parameters
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.budget import number_in_turn, training_budget
from ..training.goals import (
    GuidanceReference,
    PredictionGoal,
    TextEncodings,
    goal_predictions,
    keep_goal,
    negative_guidance_goal,
    reference_texts,
    towards_goal,
)
from ..training.parameter_groups import select_parameters
from ..training.trajectories import GuidedSampler, PartialSampling
from .registry import NO_SERVICES, MethodServices, Unreached, method, weights_data


@method("ace", paper="arXiv:2501.01633", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class ACE:
    """Erases the target from the unconditional prediction as well, so that editing does not bring it back.

    Defaults from the authors' shipped script.
    """

    unreached: ClassVar[Unreached] = "nothing"
    weighs_targets: ClassVar[bool] = True

    rank: int = 4
    """Rank of each adapter."""
    alpha: float = 1.0
    """Scale of the adapter, which is alpha / rank up down."""
    iterations: int = 1500
    """Training steps for up to four targets; more targets have more."""
    lr: float = 1e-3
    """Learning rate."""
    batch_size: int = 1
    """Latents in a step."""
    ddim_steps: int = 30
    """Sampling steps of a trajectory."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t."""
    negative_guidance: float = 3.0
    """eta_n: how far the conditional side is pushed away from the target, and the unconditional one towards it."""
    surrogate_guidance: float = 3.0
    """eta_s, strength of the correction by retained texts, >= 0; their differences are summed."""
    null_weight: float = 0.99
    """lambda_0, share of the unconditional side in what erases, 0 to 1."""
    pl_weight: float = 0.8
    """lambda_p, share of the predictions under retained texts, 0 to 1."""
    anchor_batch_size: int = 2
    """Retained texts in a step."""
    sc_clip_path: str = ""
    """JSON file [{text: score, ..}, ..] with CLIP's score of each retained text's images and of each target's with the
    target's name; a retained text's share is its score by the target's. "" weighs all by 1."""
    reference: GuidanceReference = "empty"
    """Text that guidance is taken about: the empty one, or each target's anchor, which suits styles."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": finished latents at every timestep, because their sampler never stops early."""

    def __post_init__(self) -> None:
        check_seed("ace", self.seed)
        for name in ("iterations", "lr", "start_guidance", "surrogate_guidance"):
            require(getattr(self, name) >= 0, f"ace: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "alpha", "batch_size", "ddim_steps", "anchor_batch_size"):
            require(getattr(self, name) > 0, f"ace: {name} must be > 0, got {getattr(self, name)}")
        for name in ("null_weight", "pl_weight"):
            require(0 <= getattr(self, name) <= 1, f"ace: {name} must be 0 to 1, got {getattr(self, name)}")
        require(
            self.negative_guidance >= -1,
            f"ace: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> LowRankEdit:
        """Minimise (1 - lambda_p) (lambda_0 L_unc + (1 - lambda_0) L_cond) + lambda_p L_cons at x_t (b, c, h, w).

        L_cond = |e(c) - (e*_0 - eta_n (e*_c - e*_0))|^2, L_unc = |e(0) - (e*_0 + eta_n (e*_c - e*_0) - eta_s sum_j w_j
        (e*_j - e*_0))|^2 and L_cons = mean_j |e(j) - e*_j|^2, with the target c, what the pipeline guides away from 0
        (zeros in SDXL, inferred), retained texts j drawn in shuffled order, and e* the unedited model. x_t are the
        edited model's own latents under c after 0 to N - 1 steps. FLUX dev draws without an unconditional side: there
        only drawing with true guidance is guarded (inferred). Anchors are used with the reference `anchor` only.
        """
        # Differs: x_t are latents of their own timestep, which is the sampler's; the authors' sampler never stops early
        # (`compat`), and their timestep is up to a step noisier.
        # Differs: DDIM samples x_t; the authors' samples with PNDM, whose state a partial trajectory would carry over.
        # Differs: with the reference `anchor`, e*_c is compared with the prediction under the target's anchor.
        # Differs: their loss on latents of retained texts, which their script leaves off, is not offered.
        references, prior = reference_texts("ace", request, self.reference), self._prior(request)
        shares = {target: self._shares(target, prior) for target in request.targets}
        maps = denoiser_modules(model, select_parameters(denoiser_parameters(model), "transformer-maps"))
        trained = TrainableLowRank(model, maps, self.rank, self.seed, init="uniform", scale=self.alpha / self.rank)
        texts = TextEncodings.as_sampled(model)
        walk = GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)
        source = PartialSampling(
            walk, request.targets, 0, self.seed, self.compat == "authors", weights=services.weights_of(request)
        )

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            point = source.draw(step, self.batch_size, rng)
            target, drawn = point.prompts[0], self._drawn(prior, step)
            goals = [
                self.null_goal(target, references[target], {text: shares[target][text] for text in drawn}),
                negative_guidance_goal(target, self.negative_guidance, references[target]),
                *map(keep_goal, drawn),
            ]
            rows, asked = len(point.x_t), ["", target, *drawn]
            with trained.teacher():
                wanted = goal_predictions(model, texts, point.x_t, point.t, [[goal] * rows for goal in goals])
            x_t, t = point.x_t.repeat(len(asked), 1, 1, 1), point.t.repeat(len(asked))
            said = model.denoise(x_t, t, texts([text for text in asked for _ in range(rows)]))
            return self._terms((said - torch.cat(wanted)).float().square().mean((1, 2, 3)).view(-1, rows).mean(1))

        plan = TrainingPlan(training_budget(self.iterations, len(request.targets)), self.lr, seed=self.seed)
        about = {"settings": settings_data(self), "request": vars(request)} | weights_data(services.weights)
        return trained.edit(loss_figures(train(trained, loss, plan, {**about, "shares": shares}, name="ace")))

    def _terms(self, errors: Tensor) -> dict[str, Tensor]:
        """Weigh the errors of the unconditional side, the target and the retained texts."""
        null, target, *kept = errors
        share = 1 - self.pl_weight
        found = {"null": share * self.null_weight * null, "target": share * (1 - self.null_weight) * target}
        return found | ({"prior": self.pl_weight * torch.stack(kept).mean()} if kept else {})

    def null_goal(self, target: str, reference: str, shares: Mapping[str, float]) -> PredictionGoal:
        """Build e*_0 + eta_n (e*_target - e*_reference) - eta_s sum of share (e*_text - e*_0)."""
        away = {text: self.surrogate_guidance * share for text, share in shares.items()}
        return towards_goal(target, self.negative_guidance, away, reference, start="")

    def _prior(self, request: Request) -> tuple[str, ...]:
        """Return the retained texts; the empty one is left out, because its prediction is what moves."""
        found = tuple(text for text in request.retain if text)
        needed = self.pl_weight > 0 or self.null_weight * self.surrogate_guidance > 0
        require(
            bool(found) or not needed,
            "ace: no retained text corrects the unconditional side or is held: name related concepts with --retain",
            RequestError,
        )
        return found

    def _drawn(self, prior: tuple[str, ...], step: int) -> tuple[str, ...]:
        """Return the retained texts of a step: all take turns, each turn in its own order."""
        count = min(self.anchor_batch_size, len(prior))
        turns = range(step * count, (step + 1) * count)
        return tuple(dict.fromkeys(prior[number_in_turn(turn, len(prior), self.seed)] for turn in turns))

    def _shares(self, target: str, prior: tuple[str, ...]) -> dict[str, float]:
        """Return w_j, the relevance of each retained text relative to that of the target itself."""
        if not self.sc_clip_path:
            return dict.fromkeys(prior, 1.0)
        scores = _read_scores(Path(self.sc_clip_path))
        for text in (target, *prior):
            require(text in scores, f"{self.sc_clip_path} has no score of {text!r}: add one", DataError)
            score = scores[text]
            message = f"{self.sc_clip_path}: the score of {text!r} is {score!r}: give a number above 0"
            require(isinstance(score, int | float) and score > 0, message, DataError)
        return {text: scores[text] / scores[target] for text in prior}


def _read_scores(path: Path) -> Mapping[str, Any]:
    """Return the first object of a JSON list of objects."""
    require_regular_file(path, DataError)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; name a file of CLIP scores, or leave it out") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}; write [{{text: score}}]") from None
    message = f"{path} must begin with an object of scores: write [{{text: score}}]"
    require(isinstance(found, list) and bool(found) and isinstance(found[0], dict), message, DataError)
    scores: Mapping[str, Any] = found[0]
    return scores
