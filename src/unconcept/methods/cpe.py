"""CPE, Concept Pinpoint Eraser: Lee et al., ICLR 2025, arXiv:2506.22806.

A gate that reads the whole text lets a concept's tokens through to low-rank maps beside keys and values. It is trained
on text states alone, in turns with states that bring the concept back. No images, no call of the denoiser.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NumericsError, RequestError, require
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import ResidualGate, ResidualGateEdit
from ..models import ModelView
from ..models.hooks.map_sensitivity import map_sensitivities
from ..models.text.state_rows import content_positions, sentences_that_fit
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableGate, TrainingPlan, loss_figures, minimise, train
from ..training.budget import training_budget
from ..training.goals import TextEncodings
from ..training.lr_schedules import cosine_restarts
from .registry import NO_SERVICES, MethodServices, Unreached, method

_SHUT = 0.01  # A gate that opens no further than this for its own target erases nothing.
_SEARCH_DIVERGES = 10.0  # times the first loss of a search
_FIRST_SEARCHED = 0.01  # scale of the states that a search begins with (inferred)


@method("cpe", paper="arXiv:2506.22806", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class CPE:
    """Trains a gate beside keys and values that opens for the target alone.

    Defaults from the authors' config for artists.
    """

    unreached: ClassVar[Unreached] = "any pooled text"

    gate_rank: int = 16
    """Width of the gate's queries and keys."""
    rank: int = 1
    """Rank of what each map adds."""
    alpha: float = 1.0
    """Scale of what each map adds, which is alpha / rank up down."""
    guidance_scale: float = 0.5
    """eta: how far beyond the anchor a target is pushed."""
    pal: float = 1e4
    """Weight of the retained texts' drift."""
    stages: int = 10
    """Z, trainings of the gate, with a search between any two."""
    iterations: int = 450
    """Steps of each training and each search for up to four targets; more targets have more."""
    first_stage_factor: int = 4
    """The first training has this many times the steps."""
    first_lr_factor: float = 10.0
    """The first training has this many times the learning rate, and twice the cycles."""
    lr: float = 3e-5
    """Learning rate."""
    lr_adv: float = 0.01
    """Learning rate of a search."""
    lr_warmup_steps: int = 5
    """Steps of each training until the learning rate is reached."""
    lr_scheduler_num_cycles: int = 1
    """Cycles of the cosine schedule with restarts in each training (inferred)."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW, its default (inferred)."""
    num_add_prompts: int = 16
    """States that a search finds, which belong to the targets in turn."""
    adv_coef: float = 1.0
    """Weight of the found states' loss."""
    retain_batch: int = 16
    """Retained states in a step, each mixed from two texts."""
    noise: float = 0.001
    """Noise on retained states, relative to the norm of each token's."""
    gates: Literal["one", "each"] = "one"
    """Train one gate for all targets, or one for each, of which each token has the widest open one."""
    templates: tuple[str, ...] = ()
    """Prompts with {} in the concept's place; () takes thirty for its kind."""
    seed: int = 2024
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": the gate's keys are its queries, because their code never reads the keys."""

    def __post_init__(self) -> None:
        check_seed("cpe", self.seed)
        check_sentences("cpe", self.templates)
        for name in ("iterations", "lr", "lr_adv", "pal", "weight_decay", "adv_coef", "noise", "lr_warmup_steps"):
            require(getattr(self, name) >= 0, f"cpe: {name} must be >= 0, got {getattr(self, name)}")
        counts = ("stages", "first_stage_factor", "lr_scheduler_num_cycles", "num_add_prompts", "retain_batch")
        for name in ("gate_rank", "rank", "alpha", "first_lr_factor", *counts):
            require(getattr(self, name) > 0, f"cpe: {name} must be > 0, got {getattr(self, name)}")
        require(
            self.guidance_scale >= -1,
            f"cpe: guidance_scale must be >= -1 (-1 changes nothing), got {self.guidance_scale}",
        )

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> ResidualGateEdit:
        """Minimise L_era(c) + adv_coef L_era(c + p) + pal L_att, in turns with a search for p.

        L_era(x) is the mean over maps of lambda_l |(1 + eta) W c_neu - eta W c - f(x)|^2 and L_att that of lambda_l |W
        c_ret - f(c_ret)|^2, with f(x) = W x + up down (g e), the target's states c (l, d) and its anchor's c_neu in one
        sentence, and c_ret mixed of two retained texts. lambda_l is sigma_max(W_o) for values and sigma_max(W_o W_v)
        sigma_max(W_q) / l for keys. p minimises lambda_l |f(c + p) - W c|^2. In SD3 and FLUX the map is the one that
        reads all text, with lambda 1 (inferred). The pooled text of SDXL, SD3 and FLUX still names the concept.
        """
        # Differs: errors are means over rows, tokens and widths; the card of the loss leaves the norm's scale open.
        # Differs: AdamW keeps its moments from stage to stage, and in full; the authors' keeps 8 bits of them.
        # Differs: retained texts are the request's; the authors choose the fifty that are most like the target.
        retain = tuple(text for text in request.retain if text)
        require(
            bool(retain) or self.pal == 0,
            "cpe: no retained text holds the gate shut: name other concepts with --retain, or set pal to 0",
            RequestError,
        )
        anchors = dict(zip(request.targets, request.anchors, strict=True))
        groups = [(target,) for target in request.targets] if self.gates == "each" else [request.targets]
        gates, figures = [], dict[str, float]()
        for i, targets in enumerate(groups):
            part = _Training(self, model, {text: anchors[text] for text in targets}, retain, request)
            gate, losses = part.run(f"cpe-{i}" if i else "cpe")
            gates.append(gate)
            figures = figures or loss_figures(losses)
        return ResidualGateEdit(tuple(gates), solve_figures=figures)


@dataclass
class _Training:
    """The training of one gate."""

    own: CPE
    model: ModelView
    anchors: Mapping[str, str]  # by target
    retain: tuple[str, ...]
    request: Request
    found: Tensor = field(default_factory=lambda: torch.empty(0), init=False)  # p (k, l, d) of the last search

    def __post_init__(self) -> None:
        self.texts, maps = TextEncodings.of(self.model), self.model.text_maps()
        names = tuple(maps)
        # Files may hold them in half precision.
        self.w = torch.cat([maps[name].detach().to(self.model.device, self.model.dtype) for name in names])
        lambdas = map_sensitivities(self.model, names, self.texts([""]).states.shape[1])
        self.weights = torch.cat([lambdas[name].expand(len(maps[name])) / len(maps[name]) for name in names])
        self.weights = self.weights / len(names)
        own, sizes = self.own, {name: (len(maps[name]), self.w.shape[1]) for name in names}
        keyless, scale = own.compat == "authors", own.alpha / own.rank
        self.trained = TrainableGate(
            self.model, tuple(self.anchors), sizes, own.gate_rank, own.rank, own.seed, scale, keyless
        )
        forms = open_sentences("cpe", self.request, self.own.templates)
        self.forms = sentences_that_fit(self.model, forms, *self.anchors, *self.anchors.values(), *self.retain)
        steps = training_budget(self.own.iterations, len(self.anchors))
        self.lengths = [self.own.first_stage_factor * steps, *[steps] * (self.own.stages - 1)]

    def run(self, name: str) -> tuple[ResidualGate, list[float]]:
        """Train the gate, and return it with the loss before each step."""
        own = self.own
        plan = TrainingPlan(sum(self.lengths), own.lr, "adamw", own.weight_decay, own.seed, rate=self._rate())
        about = {"settings": settings_data(own), "anchors": dict(self.anchors), "retain": self.retain}
        losses = train(self.trained, self.loss, plan, about, [self], name)
        if losses:
            self._require_open()
        (gate,) = self.trained.edit({}).gates
        return gate, losses

    def state(self) -> Mapping[str, Tensor]:
        return {"found": self.found}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.found = state["found"].to(self.model.device)

    def _rate(self) -> Callable[[int], float]:
        own = self.own
        first = cosine_restarts(self.lengths[0], own.lr_warmup_steps, 2 * own.lr_scheduler_num_cycles)
        later = cosine_restarts(self.lengths[-1], own.lr_warmup_steps, own.lr_scheduler_num_cycles)

        def rate(step: int) -> float:
            after = step - self.lengths[0]
            return own.first_lr_factor * first(step) if after < 0 else later(after % self.lengths[-1])

        return rate

    def loss(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Compute the losses of a step; the first step of each later stage searches beforehand."""
        after = step - self.lengths[0]
        if after >= 0 and after % self.lengths[-1] == 0:
            self._require_open()
            self.found = self._search(after // self.lengths[-1])
        targets, anchors = self._states(self._form(rng))
        wanted = (1 + self.own.guidance_scale) * F.linear(anchors - targets, self.w)
        terms = {"target": self._error(wanted - self._added(targets))}
        if len(self.found):
            which = torch.arange(len(self.found)) % len(targets)
            apart = wanted[which] - F.linear(self.found, self.w) - self._added(targets[which] + self.found)
            terms["found"] = self.own.adv_coef * self._error(apart)
        if self.own.pal:
            terms["retain"] = self.own.pal * self._error(self._added(self._retained(rng)))
        return terms

    def _search(self, stage: int) -> Tensor:
        """Find states p (k, l, d) that bring the targets back."""
        rng = torch.Generator().manual_seed(numbered_seed(self.own.seed, stage))
        targets, _ = self._states(self.forms[0])
        shape = (self.own.num_add_prompts, *targets.shape[1:])
        p = (_FIRST_SEARCHED * torch.randn(shape, generator=rng)).to(targets).requires_grad_()
        which = torch.arange(len(p)) % len(targets)

        def apart(step: int, rng: torch.Generator) -> Tensor:
            own, _ = self._states(self._form(rng))
            return self._error(F.linear(p, self.w) + self._added(own[which] + p))

        seed, steps = numbered_seed(self.own.seed, stage), self.lengths[-1]
        losses = minimise(apart, [p], steps, self.own.lr_adv, "adamw", weight_decay=self.own.weight_decay, seed=seed)
        require(
            losses[-1] <= _SEARCH_DIVERGES * losses[0],
            f"the search for states that bring the target back diverged, from {losses[0]:.3g} to {losses[-1]:.3g}:"
            " lower lr_adv",
            NumericsError,
        )
        return p.detach()

    def _error(self, apart: Tensor) -> Tensor:
        return (apart.square() * self.weights).sum(-1).mean()

    def _added(self, x: Tensor) -> Tensor:
        """Return what all maps add (b, l, sum of o) to states (b, l, d)."""
        gate = self.trained.gate
        e, g = gate.open(x)
        ups, downs = zip(*gate.pairs.values(), strict=True)
        through = F.linear(g[..., None] * e, torch.cat(downs).to(e))
        return self.trained.scale * F.linear(through, torch.block_diag(*ups).to(e))

    def _form(self, rng: torch.Generator) -> str:
        return self.forms[int(torch.randint(len(self.forms), (), generator=rng))]

    def _states(self, form: str) -> tuple[Tensor, Tensor]:
        """Return the states of the targets and of their anchors (n, l, d) in a sentence; an empty anchor has none."""
        targets = self._encoded([form.replace("{}", text) for text in self.anchors])
        anchors = self._encoded([text and form.replace("{}", text) for text in self.anchors.values()])
        return targets, anchors

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return self.texts(texts).states.detach()

    def _retained(self, rng: torch.Generator) -> Tensor:
        form, count = self._form(rng), self.own.retain_batch
        drawn = torch.randint(len(self.retain), (2 * count,), generator=rng).tolist()
        one, other = self._encoded([form.replace("{}", self.retain[i]) for i in drawn]).chunk(2)
        share = torch.rand(count, 1, 1, generator=rng).to(one)
        mixed = share * one + (1 - share) * other
        noise = torch.randn(mixed.shape, generator=rng).to(mixed)
        noisy: Tensor = mixed + self.own.noise * mixed.norm(dim=-1, keepdim=True) * noise
        return noisy

    @torch.no_grad()
    def _require_open(self) -> None:
        """Raise `NumericsError` if the gate is shut for a target."""
        for target in self.anchors:
            tokens = list(chain(*content_positions(self.model, target))) or slice(None)
            widest = float(self.trained.gate.open(self._encoded([target]))[1][0, tokens].max())
            require(
                widest > _SHUT,
                f"the gate stays shut: it opens to {widest:.2g} of 1 for {target!r}: lower pal or raise guidance_scale",
                NumericsError,
            )
