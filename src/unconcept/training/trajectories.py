"""Sources of the noisy latents of a training step: partial sampling, resumable trajectories, pools, noised images.

All take the steps of one sampler, and sample with the model in its current state, student or teacher.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import require
from ..core.seeds import BLOCK_SEED_STEP, numbered_seed
from ..models import ModelView
from ..models.diffusion.sampler import Sampler, is_guidance_distilled
from ..models.model_view import PromptGuidance
from .budget import text_in_turn
from .distributed import rank_seed_offset
from .goals import TextEncodings
from .sample_options import augment_sample
from .session import current_session
from .token_search import normal_noise

# `focused_timesteps`: bounds of the interval, and steepness of its edges.
_FOCUS_TIMESTEPS, _FOCUS_STEEPNESS = (200, 400), 0.05


@dataclass(frozen=True)
class GuidedSampler:
    """Samples in N steps under guidance, with DDIM or along the model's flow.

    Guidance leads away from the encoded empty text. Guidance-distilled models sample at their default scale.
    """

    model: ModelView
    texts: TextEncodings
    steps: int
    guidance_scale: float
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        is_flow = self.model.schedule.prediction_type == "flow"
        object.__setattr__(self, "sampler", Sampler(self.model, self.steps, None if is_flow else "ddim"))

    @classmethod
    def of(cls, model: ModelView, steps: int, guidance_scale: float) -> "GuidedSampler":
        """Build a sampler that encodes texts with the current model."""
        return cls(model, TextEncodings.of(model), steps, guidance_scale)

    def initial_latents(self, seeds: Sequence[int]) -> Tensor:
        """Draw noise (b, c, h, w), one image for each seed."""
        noise = normal_noise(
            self.model.latent_shape,
            [torch.Generator().manual_seed(seed + rank_seed_offset(self.model.device)) for seed in seeds],
        )
        return noise.to(self.model.device, self.model.dtype)

    def timestep(self, k: int | Tensor, rows: int = 1) -> Tensor:
        """Return the timesteps (rows,) of the prediction after k steps; a tensor k (b,) has one for each row."""
        t = self.sampler.timesteps
        return (t[k].expand(rows) if isinstance(k, int) else t[k.to(t.device)]).to(self.model.device)

    def denoise_steps(
        self, x: Tensor, prompts: Sequence[str], k: int, stop: int, negatives: Sequence[str] = ()
    ) -> Tensor:
        """Denoise latents x (b, c, h, w) from k steps done to `stop` steps done.

        Guidance leads away from `negatives`, one for each row, or from the empty text.
        """
        if self.guidance_scale == 1 or is_guidance_distilled(self.model):
            guidance = PromptGuidance(self.texts(prompts))
        else:
            away = negatives or [""] * len(x)
            both = self.texts([*away, *prompts])
            guidance = PromptGuidance(both, self.guidance_scale, self.model.spec.guided_square)
        return self.sampler.denoise(x, guidance, k, stop)


@dataclass(frozen=True)
class NoisyLatents:
    """Latents (b, c, h, w) of a training step, with each row's prompt and its number of sampling steps done."""

    x_t: Tensor
    t: Tensor  # (b,)
    prompts: tuple[str, ...]
    k: tuple[int, ...]


@dataclass
class PartialSampling:
    """Samples a new trajectory for every step, up to a uniform number of sampling steps, with the current model."""

    sampler: GuidedSampler
    prompts: Sequence[str]
    lowest: int = 0  # smallest number of steps
    seed: int = 0  # of the order of the prompts, which are taken in turn
    to_end: bool = False
    """Take the last latents of a trajectory at the drawn timestep, as ACE's and EraseAnything's authors' code does."""
    weights: Sequence[float] | None = None
    """How often each prompt is taken, relative to their mean; None: all as often."""

    def draw(self, step: int, rows: int, rng: torch.Generator) -> NoisyLatents:
        """Draw the latents of one step; its rows share prompt, number of sampling steps and noise level."""
        k = int(torch.randint(self.lowest, self.sampler.steps, (), generator=rng))
        (found,) = self._stopped(step, rows, rng, [k])
        return found

    def draw_pair(self, step: int, rows: int, rng: torch.Generator) -> tuple[NoisyLatents, NoisyLatents]:
        """Draw the latents of one step at two points of its trajectories: from `lowest` steps done on, and before."""
        bounds = ((0, self.lowest), (self.lowest, self.sampler.steps))
        late, early = self._stopped(step, rows, rng, [int(torch.randint(*each, (), generator=rng)) for each in bounds])
        return late, early

    def _stopped(self, step: int, rows: int, rng: torch.Generator, stops: Sequence[int]) -> list[NoisyLatents]:
        """Sample new trajectories and stop them after each of so many sampling steps, which ascend; the last first."""
        prompt = text_in_turn(step, self.prompts, self.seed, self.weights)
        seeds = torch.randint(2**31, (rows,), generator=rng).tolist()
        x, done, kept = self.sampler.initial_latents(seeds), 0, []
        for k in stops:
            stop = self.sampler.steps if self.to_end else k
            x, done = self.sampler.denoise_steps(x, [prompt] * rows, done, stop), stop
            kept.append((x, k, self.sampler.timestep(k, rows)))
        return [NoisyLatents(augment_sample(x, t), t, (prompt,) * rows, (k,) * rows) for x, k, t in reversed(kept)]


@dataclass
class TrajectoryPool:
    """Samples trajectories of a frozen model and uses every step: one of N steps gives N latents instead of one.

    It samples a block of `size` trajectories at once and uses it in random order, so each number of steps is equally
    frequent; the prompts take turns. A row depends only on seed and row number, so a resumed training samples its block
    again.
    """

    sampler: GuidedSampler
    prompts: Sequence[str]
    size: int
    rows: int  # number that the whole training needs; it bounds the last block
    seed: int = 0
    every: bool = True
    """Put every prompt into each block, or those that `weights` choose; else the next `size` prompts in shuffled order,
    all before any repeats.
    """
    lowest: int = 0  # smallest number of steps that is drawn
    stop: int | None = None  # Trajectories end before so many steps are done; None: after all.
    weights: Sequence[float] | None = None
    """How often each prompt is taken, relative to their mean; None: all as often."""
    _block: int = -1
    _shown: list[str] = field(init=False)  # the block's prompts
    _latents: Tensor = field(init=False)  # (size, length, c, h, w)
    _order: Tensor = field(init=False)

    def __post_init__(self) -> None:
        require(self.size > 0, f"a pool must hold at least one trajectory, got {self.size}")
        self.size = max(self.size, len(self.prompts)) if self.every else self.size

    def draw(self, step: int, rows: int, rng: torch.Generator) -> NoisyLatents:
        """Draw the latents of one step. Call it while the model is the frozen one."""
        found = self._rows(step, rows)
        return self._points(found, [k for _, k, _ in found])

    def draw_pair(self, step: int, rows: int, rng: torch.Generator) -> tuple[NoisyLatents, NoisyLatents]:
        """Draw latents as `draw` does, and beside them those of the same trajectories before `lowest` steps."""
        found = self._rows(step, rows)
        early = torch.randint(self.lowest, (rows,), generator=rng).tolist()
        return self._points(found, [k for _, k, _ in found]), self._points(found, early)

    def draw_neighbours(self, step: int, rows: int) -> tuple[NoisyLatents, Tensor]:
        """Draw latents one step before those of `draw`, and those (b, c, h, w). Needs `lowest` of 1 at least.

        With a `stop` of N + 1 the last ones are clean.
        """
        found = self._rows(step, rows)
        before = self._points(found, [k - 1 for _, k, _ in found])
        return before, torch.stack([trajectory[k] for trajectory, k, _ in found])

    def _points(self, found: Sequence[tuple[Tensor, int, str]], stops: Sequence[int]) -> NoisyLatents:
        t = self.sampler.timestep(torch.tensor(stops))
        x = torch.stack([trajectory[k] for (trajectory, _, _), k in zip(found, stops, strict=True)])
        return NoisyLatents(augment_sample(x, t), t, tuple(prompt for _, _, prompt in found), tuple(stops))

    def _rows(self, step: int, rows: int) -> list[tuple[Tensor, int, str]]:
        """The trajectory (N, c, h, w) of each row of a step, its number of sampling steps done, and its prompt."""
        rehearsal = current_session().rehearsal
        if rehearsal is not None:
            rehearsal.use(self, rows)
        return [self._row(row) for row in range(step * rows, (step + 1) * rows)]

    @property
    def _length(self) -> int:
        return self.sampler.steps if self.stop is None else self.stop

    def _row(self, row: int) -> tuple[Tensor, int, str]:
        used = self._length - self.lowest
        block, place = divmod(row, self.size * used)
        if block != self._block:
            self._fill(block)
        trajectory, k = divmod(int(self._order[place]), used)
        return self._latents[trajectory], self.lowest + k, self._shown[trajectory]

    def _fill(self, block: int) -> None:
        length, used = self._length, self._length - self.lowest
        left = self.rows - block * self.size * used
        size = min(self.size, max(-(-left // used), len(self.prompts) if self.every else 1))
        prompts = self._asked(block, size)
        x = self.sampler.initial_latents([numbered_seed(self.seed, block * BLOCK_SEED_STEP + i) for i in range(size)])
        kept, rehearsal = [x], current_session().rehearsal
        if rehearsal is not None:
            with rehearsal.stocking(self, size * used, length - 1):
                kept = length * [self.sampler.denoise_steps(x, prompts, 0, min(1, length - 1))]
        while len(kept) < length:
            kept.append(self.sampler.denoise_steps(kept[-1], prompts, len(kept) - 1, len(kept)))
        self._latents, self._block, self._shown = torch.stack(kept, 1), block, prompts
        order = torch.randperm(size * used, generator=self._rng(block))
        self._order = order[_turns([prompts[int(row) // used] for row in order])] if self.every else order

    def _asked(self, block: int, size: int) -> list[str]:
        count = len(self.prompts)
        if self.every and self.weights is not None:
            places = range(block * self.size, block * self.size + size)
            return [text_in_turn(place, self.prompts, self.seed, self.weights) for place in places]
        if self.every:
            return [self.prompts[i % count] for i in range(size)]
        found = []
        for place in range(block * self.size, block * self.size + size):
            turn = torch.randperm(count, generator=self._rng(place // count))
            found.append(self.prompts[int(turn[place % count])])
        return found

    def _rng(self, turn: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            numbered_seed(self.seed, turn) + rank_seed_offset(self.sampler.model.device)
        )


def _turns(prompts: Sequence[str]) -> list[int]:
    """Return an order of rows in which prompts take turns; a prompt with twice as many rows has twice as many turns."""
    count, number = Counter(prompts), Counter[str]()
    places = []
    for prompt in prompts:
        number[prompt] += 1
        places.append(number[prompt] / count[prompt])
    return sorted(range(len(prompts)), key=places.__getitem__)


@dataclass
class ResumableTrajectory:
    """Keeps one trajectory that continues from one training step to the next, and restarts if it cannot (KSCU)."""

    sampler: GuidedSampler
    seed: int = 0
    at: tuple[int, int] = (-1, -1)  # index of its prompt, steps done
    x: Tensor | None = None

    def advance_to(self, prompts: Sequence[str], which: int, k: int, step: int) -> Tensor:
        """Return latents (1, c, h, w) after k steps under prompt number `which`.

        A new trajectory starts from the noise of this training step.
        """
        if self.x is None or self.at != (which, k - 1):
            self.x, begun = self.sampler.initial_latents([numbered_seed(self.seed, step)]), 0
        else:
            begun = k - 1
        self.x, self.at = self.sampler.denoise_steps(self.x, [prompts[which]], begun, k), (which, k)
        return augment_sample(self.x, self.sampler.timestep(min(k, self.sampler.steps - 1)))

    def state(self) -> Mapping[str, Tensor]:
        return {"at": torch.tensor(self.at)} | ({} if self.x is None else {"x": self.x})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        which, k = state["at"].tolist()
        self.at, self.x = (which, k), state["x"].to(self.sampler.model.device) if "x" in state else None


def focused_timesteps(count: int, rng: torch.Generator, of: int) -> Tensor:
    """Draw timesteps (count,) at which a concept takes its shape (MACE).

    Their density is sigma(0.05 (t - 200)) - sigma(0.05 (t - 400)).
    """
    t = torch.arange(of, dtype=torch.float64)
    odds = torch.sigmoid(_FOCUS_STEEPNESS * (t - _FOCUS_TIMESTEPS[0])) - torch.sigmoid(
        _FOCUS_STEEPNESS * (t - _FOCUS_TIMESTEPS[1])
    )
    return torch.multinomial(odds, count, replacement=True, generator=rng)


def noise_latents(
    model: ModelView, x0: Tensor, rng: torch.Generator, t: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise clean latents (b, c, h, w) at the timesteps t (b,), or at uniform ones, and return x_t, t and y.

    y (b, c, h, w) is the model's training target: the noise, v or the flow.
    """
    t = (torch.randint(len(model.schedule.alpha), (len(x0),), generator=rng) if t is None else t).to(model.device)
    noise = torch.randn(x0.shape, generator=rng).to(x0)
    return augment_sample(model.schedule.add_noise(x0, noise, t), t), t, model.schedule.training_target(x0, noise, t)
