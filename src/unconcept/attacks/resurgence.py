"""Concept resurgence: Suriyakumar et al., arXiv:2410.08074 (all figures inferred: the paper's body was not at hand).

No adversary: fine-tunes the edited model on pictures without the concept, and looks whether it comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..edits import DenseEdit, LowRankEdit
from ..models import Conditioning
from ..models.hooks import swapped
from ..models.latents import encode
from ..models.parts import attention_maps, denoiser_parameters, low_rank_added, trainable
from ..training import Descent, Loss
from ..training.search import denoising_error
from .registry import Attempt, Case, Input, attack, check_counts

LR = {"lora": 1e-4, "full": 1e-5}  # usual in diffusers (inferred)


@attack("resurgence", paper="arXiv:2410.08074", rung="weights", scope="concept", families=("sd1", "sd2", "sdxl"))
@dataclass(frozen=True)
class Resurgence:
    """Ordinary fine-tuning of the edited model on unrelated pictures. Defaults inferred."""

    mode: Literal["lora", "full"] = "lora"  # adapters on every attention, or the whole denoiser
    lr: float | None = None  # None: 1e-4 for lora, 1e-5 in full
    weight_decay: float = 1e-2
    batch_size: int = 4
    rank: int = 4  # of the adapters
    checkpoints: tuple[int, ...] = (50, 100, 250, 500, 1000)  # steps after which an attempt is made

    def __post_init__(self) -> None:
        rising = list(self.checkpoints) == sorted({*self.checkpoints}) and min(self.checkpoints, default=0) > 0
        require(rising, f"resurgence: checkpoints must be rising numbers > 0, got {self.checkpoints}")
        check_counts("resurgence", batch_size=self.batch_size, rank=self.rank)
        require(self.lr is None or self.lr >= 0, f"resurgence: lr must be >= 0, got {self.lr}")

    def search(self, case: Case) -> Iterator[Attempt]:
        """The prompts stay as they are; each attempt lays the weights' change so far over the edited model."""
        if case.unrelated is None:
            raise RequestError("resurgence fine-tunes on unrelated captions and pictures, and the case has none: give some")
        wide = case.model.dtype in (torch.float32, torch.float64)
        require(self.mode == "lora" or wide, f"resurgence: mode 'full' in {case.model.dtype} loses small steps: use float32 or mode 'lora'")
        yield self._attempt(case, 0, None, None)
        run = (_Lora if self.mode == "lora" else _Full)(case, self)
        with torch.no_grad():
            latents = encode(case.model, case.unrelated[1])
        for stop in self.checkpoints:
            if not case.left:
                return
            with case.edited():
                losses = run.train(self._loss(case, case.unrelated[0], latents), stop)
            yield self._attempt(case, stop, run.edit(), sum(losses) / len(losses))

    def _loss(self, case: Case, captions: tuple[str, ...], latents: Tensor) -> Loss:
        """The denoising loss of pictures under their captions. The text encoder stays as it is."""
        model = case.model
        with torch.no_grad():
            texts = model.condition(captions)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(latents), (self.batch_size,), generator=rng)
            t = torch.randint(len(model.schedule.alpha), (self.batch_size,), generator=rng).to(model.device)
            noise = torch.randn(len(which), *latents.shape[1:], generator=rng).to(latents)
            return denoising_error(model, _rows(texts, which), latents[which], noise, t).mean()

        return loss

    def _attempt(self, case: Case, steps: int, weights: LowRankEdit | DenseEdit | None, loss: float | None) -> Attempt:
        left = case.left
        return Attempt(steps, {i: Input(case.prompts[i], weights=weights) for i in left}, loss)


def _rows(given: Conditioning, which: Tensor) -> Conditioning:
    return Conditioning(*(None if part is None else part[which] for part in (given.states, given.pooled, given.time_ids)))  # type: ignore[arg-type]


@dataclass
class _Lora:
    """Adapters on every attention of the denoiser: down (r, d) random, up (o, r) zero at first."""

    case: Case
    settings: Resurgence
    pairs: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    descent: Descent = field(init=False)

    def __post_init__(self) -> None:
        rng, rank, device = torch.Generator().manual_seed(self.case.seed), self.settings.rank, self.case.model.device
        self.pairs = {}
        for name, module in attention_maps(self.case.model).items():
            o, d = module.weight.shape
            down = torch.randn(rank, d, generator=rng) / rank
            self.pairs[name] = (torch.zeros(o, rank, device=device).requires_grad_(), down.to(device).requires_grad_())
        self.descent = _descent(self.case, self.settings, [t for pair in self.pairs.values() for t in pair])

    def train(self, loss: Loss, stop: int) -> list[float]:
        maps = attention_maps(self.case.model)
        with low_rank_added((maps[name], up, down) for name, (up, down) in self.pairs.items()):
            return self.descent.run(loss, stop - self.descent.done)

    def edit(self) -> LowRankEdit:
        return LowRankEdit({name: (up.detach().clone(), down.detach().clone()) for name, (up, down) in self.pairs.items()})


@dataclass
class _Full:
    """Every parameter of the denoiser. Between two trainings the model holds its own weights again."""

    case: Case
    settings: Resurgence
    now: dict[str, Tensor] = field(default_factory=dict)  # the fine-tuned weights
    start: dict[str, Tensor] = field(default_factory=dict)  # the edited model's
    descent: Descent | None = None

    def train(self, loss: Loss, stop: int) -> list[float]:
        model, live = self.case.model, denoiser_parameters(self.case.model)
        if self.descent is None:
            self.start = {name: parameter.detach().clone() for name, parameter in live.items()}
            self.now = self.start
            self.descent = _descent(self.case, self.settings, list(live.values()))
        with swapped(live, self.now, model.saved), trainable(live.values()):
            losses = self.descent.run(loss, stop - self.descent.done)
            self.now = {name: parameter.detach().clone() for name, parameter in live.items()}
        return losses

    def edit(self) -> DenseEdit:
        return DenseEdit({name: tensor - self.start[name] for name, tensor in self.now.items()})


def _descent(case: Case, settings: Resurgence, params: list[Tensor]) -> Descent:
    lr = LR[settings.mode] if settings.lr is None else settings.lr
    return Descent(params, lr, "adamw", settings.weight_decay, case.seed)
