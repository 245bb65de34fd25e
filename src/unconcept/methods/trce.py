"""TRCE: Chen et al., ICCV 2025, arXiv:2503.07389.

The first end token summarises the whole prompt. Mapping it to that of a harmless prompt in closed form therefore also
covers wordings that never name the concept. A second stage trains the early steps of the target's trajectories towards
the harmless direction and away from the harmful one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit, TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import fits_context, sentences_that_fit, text_state_moments, texts_in_memory
from ..prompts.captions import load_captions
from ..prompts.templates import check_sentences, open_sentences, refuse_named_targets
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.goals import TextEncodings, goal_predictions, guided_goal, keep_goal
from ..training.gradient_transforms import GradientList, move_beside
from ..training.parameter_groups import select_parameters
from ..training.trainables import with_pristine_weights
from ..training.trajectories import GuidedSampler, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, method

_PAIR_BATCH = 64  # pairs of prompts in memory at once


@method(
    "trce",
    paper="arXiv:2503.07389",
    families=("sd1", "sd2", "sdxl", "zimage", "flux2", "flux2_klein", "qwenimage"),
    mechanism="closed-form",
    unsupported_reason="it relies on the end token of a causal encoder; in joint attention T5's rows carry the text",
)
@dataclass(frozen=True)
class TRCE:
    """Maps end tokens to those of harmless prompts, and steers the early steps away from what is left.

    Defaults from the authors' config for sexual content, first stage only: the second one is `epochs`.
    """

    preserve_scale: float = 0.01
    """Its square is the weight of the prior, a mean over captions, because the authors' script applies it twice."""
    token_weight_scale: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)
    """Weights of four tokens: start, first end, last end, first word of the concept."""
    augment_num: int = 15
    """Sentences for each target."""
    lamb: float = 1e-4
    """Pull towards the old weights; 0 in the authors' script, which always has COCO's captions."""
    prior: str = ""
    """Captions: a packaged set or a file; "" is none."""
    templates: tuple[str, ...] = ()
    """Sentences with {} in the concept's place; () takes those of its kind."""
    epochs: int = 0
    """Passes over the trajectories in the second stage, 3 in the paper; 0: first stage only."""
    trajectories: int = 5
    """Trajectories of each target in an epoch of the second stage, one step for each."""
    lr: float = 1e-6
    """Learning rate of the second stage."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    guidance: float = 15.0
    """beta, by which the directions of anchor and target are augmented."""
    margin: float = 0.01
    """By how much the anchor's direction shall be nearer than the target's."""
    null_weight: float = 100.0
    """Weight of keeping the prediction under the empty text."""
    null_batch: int = 4
    """Unconditional latents in a step, at any of a trajectory's steps."""
    early: float = 0.5
    """Share of a trajectory's steps, the first ones, that are trained."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    start_guidance: float = 3.0
    """Guidance scale of a target's trajectory."""
    picture_prompt: str = "a photo of {}"
    """Prompt of the trajectories, with {} in the concept's place."""
    seed: int = 0
    """Seed of all random numbers of the second stage."""
    compat: Literal["", "authors"] = ""
    """"authors": assume the first end token at the number of words + 1; the second stage never resets its gradients."""

    def __post_init__(self) -> None:
        weights = self.token_weight_scale
        require(
            min(weights) >= 0 < max(weights),
            f"trce: token_weight_scale needs four weights >= 0, one of them > 0, got {weights}",
        )
        check_seed("trce", self.seed)
        steered = ("epochs", "lr", "weight_decay", "guidance", "margin", "null_weight", "start_guidance")
        for name in ("preserve_scale", "lamb", *steered):
            require(getattr(self, name) >= 0, f"trce: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("augment_num", "trajectories", "null_batch", "ddim_steps"):
            require(getattr(self, name) >= 1, f"trce: {name} must be >= 1, got {getattr(self, name)}")
        require(0 < self.early <= 1, f"trce: early must be above 0 and at most 1, got {self.early}")
        check_sentences("trce", (*self.templates, self.picture_prompt))

    @property
    def is_trained(self) -> bool:
        """Whether there is a second stage."""
        return self.epochs > 0

    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> TextMapEdit | DenseEdit:
        """Solve the text maps in closed form, then train self-attention and the queries of cross-attention on top.

        SDXL's pooled text still names the concept. In a language model's template the first stage maps the first token
        after the prompt, which sums it up as CLIP's end token does (inferred); there is no second stage.
        """
        has_cross = model.spec.attention == "cross"
        message = f"trce: {model.family} models have no cross-attention for a second stage to train: set epochs = 0"
        require(has_cross or not self.is_trained, message)
        refuse_named_targets("trce", [self.picture_prompt], request.targets)
        mapped = self.mapped(model, request)
        if not self.is_trained:
            return mapped
        with mapped.applied(model):
            trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), "q-selfattn"))
            losses = self._steered(model, trained, request)
        wide = torch.promote_types(model.dtype, torch.float32)
        deltas = {name: mapped.delta(name, weight.to(wide)) for name, weight in model.reference(mapped.names).items()}
        figures = {**mapped.solve_figures, **loss_figures(losses)}
        return DenseEdit({**deltas, **trained.edit({}).deltas}, solve_figures=figures)

    @torch.no_grad()
    def mapped(self, model: ModelView, request: Request) -> TextMapEdit:
        """Solve W' = (sum_i w_i W e_s e_m^T / N + p W M) (sum_i w_i e_m e_m^T / N + p M + lam I)^-1 as W (I + X^T Y).

        N pairs of prompts have up to four rows each: e_m of the target's, e_s of the anchor's (n, d). M (d, d) is the
        mean over captions, p = preserve_scale^2. Differs: retained texts count among the captions; the authors have
        none.
        """
        pairs = list(zip(request.targets, request.anchors, strict=True))
        forms = open_sentences("trce", request, self.templates)
        held = [(form, *pair) for pair in pairs for form in sentences_that_fit(model, forms, *pair)[: self.augment_num]]
        size = min(_PAIR_BATCH, max(1, texts_in_memory(model) // 2))
        rows = [self._rows(model, held[start : start + size]) for start in range(0, len(held), size)]
        c, move, root = (torch.cat(parts) for parts in zip(*rows, strict=True))
        kept = [*(text for text in load_captions(self.prior) if fits_context(model, text)), *request.retain]
        prior = text_state_moments(model, kept).weighted(self.preserve_scale**2 / max(1, len(kept)))
        found = ridge_directions(root * c, prior, 1 / len(held), 1.0, self.lamb)
        wide = torch.promote_types(model.dtype, torch.float32)
        figures = condition_figure(found.condition)
        return TextMapEdit.thin((root * move).to(wide), found.y.to(wide), tuple(model.text_maps()), figures)

    def _rows(self, model: ModelView, held: Sequence[tuple[str, str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows e_m and e_s - e_m (n, d) of (sentence, target, anchor), and the roots of their weights (n, 1).

        Rows of weight 0 are left out.
        """
        old = [form.replace("{}", target) for form, target, _ in held]
        new = [form.replace("{}", anchor) for form, _, anchor in held]
        states = model.embed([*old, *new], at="all")
        ends_old, ends_new = self._ends(model, old), self._ends(model, new)
        first_words = [model.tokenizer.span(form, target).start for form, target, _ in held]
        pads = model.tokenizer.reads_padding
        c, a, weights = [], [], []
        for i, (one, two, word) in enumerate(zip(ends_old, ends_new, first_words, strict=True)):
            # The last end token counts for every pad; the concept's word maps to the last state of the anchor's prompt.
            last_old, last_new = (states.shape[1] - 1,) * 2 if pads else (one, two)
            places = ((0, 0, 1), (one, two, 1), (last_old, last_new, last_old - one), (word, last_new, 1))
            for scale, (at_old, at_new, base) in zip(self.token_weight_scale, places, strict=True):
                if scale * base > 0:
                    c.append(states[i, at_old])
                    a.append(states[len(held) + i, at_new])
                    weights.append(scale * base)
        rows, wanted = torch.stack(c).double(), torch.stack(a).double()
        # A row of weight w is a row sqrt(w) times as long on both sides.
        return rows, wanted - rows, torch.tensor(weights, dtype=rows.dtype, device=rows.device).sqrt()[:, None]

    def _ends(self, model: ModelView, texts: Sequence[str]) -> list[int]:
        """Return the position of each text's first end token, or the one that the authors' script assumes."""
        if self.compat == "authors":
            return [len(text.split()) + 1 for text in texts]
        return model.tokenizer(texts).index("first_eot")

    def _steered(self, model: ModelView, trained: TrainableWeights, request: Request) -> list[float]:
        """Minimise the mean over f of max(0, |f - prefer|^2 - |f - reject|^2 + margin), plus the weighted null term.

        f are the student's predictions under a target's prompt and under the empty text, prefer = s + beta (s - u) and
        reject = n + beta (n - u) the unedited model's under anchor, target and empty text, x_t (b, c, h, w) early
        latents of its own trajectories under the target. The null term is |eps("") - eps_1("")|^2, eps_1 after the
        first stage. Differs: a trajectory gives all of its early steps; latents and timestep are of the same step.
        """
        prompts = {self._said(c): self._said(a) for c, a in zip(request.targets, request.anchors, strict=True)}
        steps = self.epochs * self.trajectories * len(prompts)
        loss = _SteeringLoss(self, trained, TextEncodings.of(model), prompts, steps)
        rules = [_RunningSum()] if self.compat == "authors" else []
        plan = TrainingPlan(steps, self.lr, "adamw", self.weight_decay, self.seed, transforms=rules)
        about = {"settings": settings_data(self), "request": vars(request)}
        return train(trained, loss, plan, about, name="trce")

    def _said(self, concept: str) -> str:
        return self.picture_prompt.replace("{}", concept)


@dataclass
class _SteeringLoss:
    """The terms of a step of the second stage."""

    settings: TRCE
    trained: TrainableWeights
    texts: TextEncodings
    prompts: Mapping[str, str]  # the anchor's by the target's
    steps: int
    early: TrajectoryPool = field(init=False)
    null: TrajectoryPool = field(init=False)

    def __post_init__(self) -> None:
        own, model, rows = self.settings, self.texts.model, self.steps * self.settings.null_batch
        walk = GuidedSampler(model, self.texts, own.ddim_steps, own.start_guidance)
        plain = GuidedSampler(model, self.texts, own.ddim_steps, 1.0)
        stop, size = max(1, round(own.early * own.ddim_steps)), own.trajectories
        self.early = TrajectoryPool(walk, tuple(self.prompts), size, self.steps, own.seed, stop=stop)
        self.null = TrajectoryPool(plain, ("",), own.null_batch, rows, own.seed)

    def __call__(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        model, own = self.texts.model, self.settings
        with self.trained.teacher():
            with with_pristine_weights(model):
                point, beside = self.early.draw(step, 1, rng), self.null.draw(step, own.null_batch, rng)
                towards = [guided_goal(self.prompts[c], own.guidance) for c in point.prompts]
                away = [guided_goal(c, own.guidance) for c in point.prompts]
                prefer, reject = goal_predictions(model, self.texts, point.x_t, point.t, [towards, away])
            (kept,) = goal_predictions(model, self.texts, beside.x_t, beside.t, [[keep_goal("")] * own.null_batch])
        # One call: the target's prompt and the empty text on early latents, the empty text on the others.
        asked = self.texts([*point.prompts, *[""] * (1 + own.null_batch)])
        said, null = model.denoise(
            torch.cat([point.x_t, point.x_t, beside.x_t]), torch.cat([point.t, point.t, beside.t]), asked
        ).split([2, own.null_batch])
        near, far = ((said - goal).float().square().flatten(1).mean(1) for goal in (prefer, reject))
        return {
            "target": torch.relu(near - far + own.margin).mean(),
            "null": own.null_weight * (null - kept).float().square().mean(),
        }


@dataclass
class _RunningSum:
    """Follows the sum of all gradients so far, as the authors' loop does, which never resets them."""

    sums: list[Tensor] = field(default_factory=list)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        sums = move_beside(self.sums, gradients) if self.sums else []
        self.sums = [a + g for a, g in zip(sums, gradients, strict=True)] if sums else list(gradients)
        return self.sums

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""

    def state(self) -> Mapping[str, Tensor]:
        return {str(i): t for i, t in enumerate(self.sums)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.sums = [state[str(i)].clone() for i in range(len(state))]
