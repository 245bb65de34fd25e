"""Where the noisy latents of a step come from: partial sampling, kept trajectories, pools, noised pictures.

All walk the model's own grid with whatever the model computes with at the time: on, the student draws, off, the teacher
does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import require
from ..models import ModelView
from ..models.diffusion.sampling_grid import SamplingGrid, is_guidance_distilled
from .distributed import rank_seed_offset
from .goals import TextEncodings
from .sample_options import augment_sample
from .token_search import normal_noise

SEED_PRIMES = 1_000_003, 7_919  # of seeds: a trajectory's and a block's
# Of `focused_timesteps`: between which timesteps, and how sharply they are kept to.
_FOCUS_TIMESTEPS, _FOCUS_STEEPNESS = (200, 400), 0.05


@dataclass(frozen=True)
class GuidedSampler:
    """Sampling in N steps under guidance.

    Guidance leads away from the encoded empty text; where it was distilled in, it is not given.
    """

    model: ModelView
    texts: TextEncodings
    steps: int
    guidance_scale: float
    grid: SamplingGrid = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", SamplingGrid.of(self.model, self.steps))

    def initial_latents(self, seeds: Sequence[int]) -> Tensor:
        """Noise (b, c, h, w), a picture each of its own seed."""
        noise = normal_noise(
            self.model.latent_shape,
            [torch.Generator().manual_seed(seed + rank_seed_offset(self.model.device)) for seed in seeds],
        )
        return noise.to(self.model.device, self.model.dtype)

    def timestep(self, k: int | Tensor, rows: int = 1) -> Tensor:
        """(rows,) at which the model is asked after k steps, or after k (b,) of each row."""
        return (self.grid.t[k].expand(rows) if isinstance(k, int) else self.grid.t[k]).to(self.model.device)

    @torch.no_grad()
    def denoise_steps(
        self, x: Tensor, prompts: Sequence[str], k: int, stop: int, negatives: Sequence[str] = ()
    ) -> Tensor:
        """Latents x (b, c, h, w) after k steps, led on until `stop` steps are done; away from `negatives`, one a row,
        or the empty text.
        """
        guides = self.guidance_scale != 1 and not is_guidance_distilled(self.model)
        given = self.texts([*prompts, *((negatives or [""] * len(x)) if guides else [])])
        for step in range(k, stop):
            t = self.timestep(step, len(given.states))
            if guides:
                said, empty = self.model.denoise(torch.cat([x, x]), t, given).chunk(2)
                said = empty + self.guidance_scale * (said - empty)
            else:
                said = self.model.denoise(x, t, given)
            x = self.grid.step(x, said, step)
        return x


@dataclass(frozen=True)
class NoisyLatents:
    """Latents (b, c, h, w) of a step of training, with what each row was drawn under and how many steps it has seen."""

    x_t: Tensor
    t: Tensor  # (b,)
    prompts: tuple[str, ...]
    k: tuple[int, ...]


@dataclass
class PartialSampling:
    """Every step its own trajectory, drawn up to a uniform number of steps by what the model now computes with."""

    sampler: GuidedSampler
    prompts: Sequence[str]
    lowest: int = 0  # number of steps

    def draw(self, step: int, rows: int, rng: torch.Generator) -> NoisyLatents:
        """Rows of one step share prompt, number of steps and noise level, as one batch."""
        prompt = self.prompts[int(torch.randint(len(self.prompts), (), generator=rng))]
        k = int(torch.randint(self.lowest, self.sampler.steps, (), generator=rng))
        seeds = torch.randint(2**31, (rows,), generator=rng).tolist()
        x = self.sampler.denoise_steps(self.sampler.initial_latents(seeds), [prompt] * rows, 0, k)
        t = self.sampler.timestep(k, rows)
        return NoisyLatents(augment_sample(x, t), t, (prompt,) * rows, (k,) * rows)


@dataclass
class TrajectoryPool:
    """Trajectories of a frozen model, every step of which is used: one of N steps gives N latents instead of one.

    A block of `size` trajectories is drawn at once and used up in random order, so each number of steps comes as often
    as any other. What a row gets is a function of seed and row number alone: a training that goes on draws its block
    again.
    """

    sampler: GuidedSampler
    prompts: Sequence[str]
    size: int
    rows: int  # that the whole training will ask for: the last block is no larger than it must be
    seed: int = 0
    every: bool = True
    """Each block holds every prompt; else the next `size` of them, in shuffled order, none twice before all have come.
    """
    _block: int = -1
    _shown: list[str] = field(init=False)  # the block's prompts
    _latents: Tensor = field(init=False)  # (size, N, c, h, w)
    _order: Tensor = field(init=False)

    def __post_init__(self) -> None:
        require(self.size > 0, f"a pool must hold at least one trajectory, got {self.size}")
        self.size = max(self.size, len(self.prompts)) if self.every else self.size

    def draw(self, step: int, rows: int, rng: torch.Generator) -> NoisyLatents:
        """To be asked while the model is the frozen one."""
        found = [self._row(row) for row in range(step * rows, (step + 1) * rows)]
        k = torch.tensor([n for _, n, _ in found])
        t = self.sampler.timestep(k)
        return NoisyLatents(
            augment_sample(torch.stack([x for x, _, _ in found]), t),
            t,
            tuple(p for _, _, p in found),
            tuple(k.tolist()),
        )

    def _row(self, row: int) -> tuple[Tensor, int, str]:
        block, place = divmod(row, self.size * self.sampler.steps)
        if block != self._block:
            self._fill(block)
        trajectory, k = divmod(int(self._order[place]), self.sampler.steps)
        return self._latents[trajectory, k], k, self._shown[trajectory]

    def _fill(self, block: int) -> None:
        length = self.sampler.steps
        left = self.rows - block * self.size * length
        size = min(self.size, max(-(-left // length), len(self.prompts) if self.every else 1))
        prompts = self._asked(block, size)
        x = self.sampler.initial_latents([self.seed * SEED_PRIMES[0] + block * SEED_PRIMES[1] + i for i in range(size)])
        kept = []
        for k in range(length):
            kept.append(x)
            x = self.sampler.denoise_steps(x, prompts, k, k + 1) if k + 1 < length else x
        self._latents, self._block, self._shown = torch.stack(kept, 1), block, prompts
        self._order = torch.randperm(size * length, generator=self._rng(block))

    def _asked(self, block: int, size: int) -> list[str]:
        count = len(self.prompts)
        if self.every:
            return [self.prompts[i % count] for i in range(size)]
        found = []
        for place in range(block * self.size, block * self.size + size):
            turn = torch.randperm(count, generator=self._rng(place // count))
            found.append(self.prompts[int(turn[place % count])])
        return found

    def _rng(self, turn: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            self.seed * SEED_PRIMES[0] + turn + rank_seed_offset(self.sampler.model.device)
        )


@dataclass
class ResumableTrajectory:
    """One trajectory that goes on from step to step of training, and begins anew where it cannot (KSCU)."""

    sampler: GuidedSampler
    seed: int = 0
    at: tuple[int, int] = (-1, -1)  # number of its prompt, steps done
    x: Tensor | None = None

    def advance_to(self, prompts: Sequence[str], which: int, k: int, step: int) -> Tensor:
        """Latents (1, c, h, w) after k steps under prompt number `which`; a new one starts from the noise of this
        training step.
        """
        if self.x is None or self.at != (which, k - 1):
            self.x, begun = self.sampler.initial_latents([self.seed * SEED_PRIMES[0] + step]), 0
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
    """Timesteps (count,) at which a concept takes its shape: drawn with density sigma(0.05 (t - 200)) - sigma(0.05 (t -
    400)) (MACE).
    """
    t = torch.arange(of, dtype=torch.float64)
    odds = torch.sigmoid(_FOCUS_STEEPNESS * (t - _FOCUS_TIMESTEPS[0])) - torch.sigmoid(
        _FOCUS_STEEPNESS * (t - _FOCUS_TIMESTEPS[1])
    )
    return torch.multinomial(odds, count, replacement=True, generator=rng)


def noise_latents(
    model: ModelView, x0: Tensor, rng: torch.Generator, t: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t of clean latents (b, c, h, w) at a uniform timestep each, or at those given, t (b,), and what the model
    should say of x_t.
    """
    t = (torch.randint(len(model.schedule.alpha), (len(x0),), generator=rng) if t is None else t).to(model.device)
    noise = torch.randn(x0.shape, generator=rng).to(x0)
    return augment_sample(model.schedule.add_noise(x0, noise, t), t), t, model.schedule.training_target(x0, noise, t)
