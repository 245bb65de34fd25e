"""RealEra: arXiv:2410.09140 (2024).

A reconstruction: we read neither code nor full text. Maps the target and random neighbours of its embedding to the
anchor, so that similar wordings are erased too, and preserves embeddings beyond the neighbourhood: in closed form, in
the text maps, and then by an adapter that aligns predictions.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import LowRankEdit, TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.low_rank import sum_pairs
from ..linalg.moments import SecondMoments
from ..linalg.neighbours import draw_by_encoder, in_neighbourhood, sample_beyond, sample_neighbours
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.hooks.modules import denoiser_modules, denoiser_parameters
from ..models.text.state_rows import content_positions, embed_together, fits_context, text_state_moments
from ..prompts.captions import load_captions
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import GivenStates, TextEncodings, TextOrStates, goal_predictions, keep_goal
from ..training.parameter_groups import select_parameters
from ..training.trainables import with_pristine_weights
from ..training.trajectories import GuidedSampler, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, Promise, Unreached, method


@method(
    "realera",
    paper="arXiv:2410.09140",
    families=("sd1", "sd2", "sdxl", "sd3", "flux"),
    mechanism="closed-form",
    unsupported_reason="it was not tried on this family",
)
@dataclass(frozen=True)
class RealEra:
    """Maps targets and mined neighbours to the anchor, in closed form and then by an adapter.

    A reconstruction: every default is (inferred). The second stage is `max_train_steps`.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "nears-anchors")
    unreached: ClassVar[Unreached] = "any pooled text"

    d1: float = 0.6
    """Largest distance of a neighbour, in lengths of the target's embedding."""
    s1: float = 0.85
    """Smallest cosine of a neighbour."""
    s2: float = 0.99
    """Largest cosine of a neighbour."""
    b1: float = 0.3
    """Smallest cosine of a row beyond."""
    b2: float = 0.75
    """Largest cosine of a row beyond."""
    neighbours: int = 10
    """Neighbours of each target."""
    beyond: int = 50
    """Rows beyond the neighbourhood for each target."""
    l1: float = 0.1
    """Weight of the mean over captions."""
    l2: float = 0.1
    """Weight of the mean over rows beyond and retained texts."""
    l3: float = 0.01
    """Pull towards the old weights, relative to the mean of the system's diagonal."""
    prior: str = ""
    """Captions: a packaged set or a file; "" is none."""
    max_train_steps: int = 0
    """Training steps of the second stage for up to four targets, more targets have more; 0: first stage only."""
    lr: float = 1e-4
    """Learning rate of the adapter."""
    rank: int = 4
    """Rank of the adapter."""
    adapts: Literal["kv", "attn"] = "kv"
    """Maps that the adapter is on: keys and values of cross-attention, or the four maps of every attention."""
    l4: float = 1.0
    """Weight of keeping predictions under states beyond the neighbourhood and under retained texts."""
    batch_size: int = 1
    """Latents in a step."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    start_guidance: float = 3.0
    """Guidance scale of a trajectory."""
    pool: int = 4
    """Trajectories of the unedited model that are sampled and used up together."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("realera", self.seed)
        for name in ("l1", "l2", "neighbours", "beyond", "d1", "max_train_steps", "lr", "l4", "start_guidance"):
            require(getattr(self, name) >= 0, f"realera: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "batch_size", "ddim_steps", "pool"):
            require(getattr(self, name) >= 1, f"realera: {name} must be >= 1, got {getattr(self, name)}")
        require(self.l3 > 0, f"realera: l3 must be > 0, got {self.l3}; without it the system is singular below d rows")
        require(0 < self.s1 <= self.s2 <= 1, f"realera: s1 and s2 need 0 < s1 <= s2 <= 1, got {self.s1}, {self.s2}")
        require(
            0 < self.b1 <= self.b2 < self.s1, f"realera: b1 and b2 need 0 < b1 <= b2 < s1, got {self.b1}, {self.b2}"
        )

    @property
    def is_trained(self) -> bool:
        """Whether there is a second stage."""
        return self.max_train_steps > 0

    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> TextMapEdit | LowRankEdit:
        """Align the text maps in closed form, and then predictions by an adapter on top, which begins at nothing.

        The pooled text of SDXL, SD3 and FLUX still names the concept. In SD3 and FLUX the adapter is on the keys and
        values of the text's side of each joint attention (inferred).
        """
        mapped = self.mapped(model, request)
        if not self.is_trained:
            return mapped
        with mapped.applied(model):
            names = select_parameters(denoiser_parameters(model), self.adapts)
            maps = denoiser_modules(model, (name for name in names if name.endswith(".weight")))
            trained = TrainableLowRank(model, maps, self.rank, self.seed)
            losses = self._aligned(model, trained, request)
        weights = model.reference(mapped.names)
        own = {name: mapped.thin_factors(name, weight.detach()) for name, weight in weights.items()}
        wide = torch.promote_types(model.dtype, torch.float32)
        joined = sum_pairs([own, trained.edit({}).pairs])
        pairs = {name: (up.to(wide), down.to(wide)) for name, (up, down) in joined.items()}
        return LowRankEdit(pairs, solve_figures={**mapped.solve_figures, **loss_figures(losses)})

    @torch.no_grad()
    def mapped(self, model: ModelView, request: Request) -> TextMapEdit:
        """Minimise mean |W'(e + eta) - W m|^2 + l1 mean |W'p - W p|^2 + l2 mean |W'b - W b|^2 + l3' |W' - W|^2.

        e, m (n, d) are last subject tokens of targets and anchors, eta offsets to neighbours, including 0, p every row
        of the captions, b rows beyond and retained texts. Solved as W' = W (I + X^T Y). Rows p and random rows b in any
        target's neighbourhood are dropped; retained texts stay, because the request names them. l3' is l3 times the
        mean of the system's diagonal. In SD3 and FLUX the map is the one that reads all text, in SD3 with a row of
        CLIP's and one of T5's for each text (inferred).
        """
        e, m = embed_together(model, request.targets, request.anchors)
        named = _texts_of_rows(model, request.targets)
        near = [self._near(model, row, text) for row, text in zip(e, named, strict=True)]
        c = torch.cat(near)
        wanted = m.double().repeat_interleave(self.neighbours + 1, 0)
        kept = self._beyond(model, request, e).weighted(self.l2) + self._captions(model, e).weighted(self.l1)
        diagonal = c.square().sum() / len(c) + kept.gram.trace()
        found = ridge_directions(c, kept, 1 / len(c), 1.0, self.l3 * float(diagonal) / c.shape[1])
        wide = torch.promote_types(model.dtype, torch.float32)
        figures = condition_figure(found.condition)
        return TextMapEdit.thin((wanted - c).to(wide), found.y.to(wide), tuple(model.text_maps()), figures)

    def _near(self, model: ModelView, row: Tensor, text: str) -> Tensor:
        """Return the target's row and its neighbours, (1 + neighbours, d) float64; each encoder of SDXL separately."""
        generator, own = self._generator("near", text), (self.neighbours, (self.s1, self.s2), self.d1)
        drawn = draw_by_encoder(row[None], model.widths, lambda part: sample_neighbours(part, *own, generator))
        return torch.cat([row[None].double(), drawn[0]])

    def _beyond(self, model: ModelView, request: Request, e: Tensor) -> SecondMoments:
        """Return the mean outer product of the rows beyond and of the retained texts' last subject tokens."""
        drawn = [e[:0].double()]
        for row, text in zip(e, _texts_of_rows(model, request.targets), strict=True):
            drawn.append(
                draw_by_encoder(row[None], model.widths, self._drawn_beyond(self._generator("beyond", text)))[0]
            )
        rows = torch.cat([self._outside(torch.cat(drawn), e), model.embed(request.retain).double()])
        return SecondMoments.of(rows).weighted(1 / max(1, len(rows)))

    def _drawn_beyond(self, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        return lambda part: sample_beyond(part, self.beyond, (self.b1, self.b2), self.d1, generator)

    def _captions(self, model: ModelView, e: Tensor) -> SecondMoments:
        """Return the mean outer product of the captions' rows."""
        texts = [text for text in load_captions(self.prior) if fits_context(model, text)]
        found = text_state_moments(model, texts, lambda rows: self._outside(rows, e))
        return found.weighted(1 / max(1, found.count))

    def _outside(self, rows: Tensor, e: Tensor) -> Tensor:
        """Return the rows (n, d) that are in no target's neighbourhood."""
        return rows[~in_neighbourhood(rows, e, self.s1, self.d1)]

    def _generator(self, use: str, text: str) -> torch.Generator:
        """Return a generator for each target, so that neither order nor other targets change its random rows."""
        digest = hashlib.sha256(f"{use}\0{text}\0{self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))

    def _aligned(self, model: ModelView, trained: TrainableLowRank, request: Request) -> list[float]:
        """Minimise |eps(x_t, c(e + eta)) - eps*(x_t, m)|^2 + l4 mean |eps(x_t, b) - eps*(x_t, b)|^2.

        eps* is the unedited model, x_t (b, c, h, w) latents of its trajectories under a target, anchor m; c(e + eta)
        are the target's states with a new neighbour of each own row, in each encoder, and of its pooled text; b are the
        same with vectors beyond the neighbourhood in their place, and a retained text. All is (inferred).
        """
        steps = training_budget(self.max_train_steps, len(request.targets))
        texts, anchors = TextEncodings.of(model), dict(zip(request.targets, request.anchors, strict=True))
        walk = GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)
        pool = TrajectoryPool(walk, request.targets, self.pool, steps * self.batch_size, self.seed)
        states = _StatesAround(self, model, texts)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            with trained.teacher(), with_pristine_weights(model):
                point = pool.draw(step, self.batch_size, rng)
                kept: list[list[TextOrStates]] = [[states.beyond(c, rng) for c in point.prompts]]
                if request.retain:
                    kept.append([states.retained(request.retain, rng) for _ in point.prompts])
                goals = [[keep_goal(anchors[c]) for c in point.prompts]]
                for group in kept:
                    goals.append([keep_goal(text) for text in group])
                wanted = torch.cat(goal_predictions(model, texts, point.x_t, point.t, goals))
            asked: list[TextOrStates] = [states.near(c, rng) for c in point.prompts]
            asked += [text for group in kept for text in group]
            times = 1 + len(kept)
            said = model.denoise(point.x_t.repeat(times, 1, 1, 1), point.t.repeat(times), texts(asked))
            error = (said - wanted).float().square()
            return {
                "target": error[: self.batch_size].mean(),
                "beyond": self.l4 * error[self.batch_size :].mean(),
            }

        about = {"settings": settings_data(self), "request": vars(request)}
        return train(trained, loss, TrainingPlan(steps, self.lr, seed=self.seed), about, name="realera")


@dataclass(frozen=True)
class _StatesAround:
    """Text states near a target and beyond its neighbourhood; in SD3 rows of CLIP's and of T5's."""

    settings: RealEra
    model: ModelView
    texts: TextEncodings

    def near(self, target: str, rng: torch.Generator) -> GivenStates:
        """Return the target's states with a neighbour in place of each of its own rows, and of its pooled text."""
        own = self.settings
        return self._with_rows(target, lambda rows: sample_neighbours(rows, 1, (own.s1, own.s2), own.d1, rng))

    def beyond(self, target: str, rng: torch.Generator) -> GivenStates:
        """Return them with vectors beyond the neighbourhood in those places."""
        own = self.settings
        return self._with_rows(target, lambda rows: sample_beyond(rows, 1, (own.b1, own.b2), own.d1, rng))

    def retained(self, retain: tuple[str, ...], rng: torch.Generator) -> str:
        """Return one of the retained texts."""
        return retain[int(torch.randint(len(retain), (), generator=rng))]

    def _with_rows(self, target: str, draw: Callable[[Tensor], Tensor]) -> GivenStates:
        """Replace the rows by what is drawn, (n, 1, d_e) for (n, d_e), each encoder by itself."""
        given, states = self.texts([target]), self.texts([target]).states.clone()
        for places in content_positions(self.model, target):
            drawn = draw_by_encoder(states[0, places], self.model.widths, draw)
            states[0, places] = drawn[:, 0].to(states)
        pooled = None if given.pooled is None else draw(given.pooled)[:, 0].to(given.pooled)
        return GivenStates(replace(given, states=states, pooled=pooled))


def _texts_of_rows(model: ModelView, texts: tuple[str, ...]) -> list[str]:
    """Name each row of `embed` by its text, the second of a text by a name of its own."""
    return [text if stream == 0 else f"{text}\0{stream}" for text in texts for stream in range(model.streams)]
