"""Fine-tunes a denoiser on pictures under captions with its own loss, as trainers of LoRAs and of whole models do."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import require
from ...edits import DenseEdit, LowRankEdit
from ...models import ModelView
from ...models.hooks.modules import attention_linears, denoiser_parameters
from ..loop import Descent, StepLoss
from ..token_search import denoising_error, training_timesteps
from ..trainables import TrainableLowRank, TrainableWeights

TuningMode = Literal["lora", "full"]
_LEARNING_RATES: dict[TuningMode, float] = {"lora": 1e-4, "full": 1e-5}  # usual in diffusers (inferred)
TunedModel = tuple[int, LowRankEdit | DenseEdit, float]  # steps, the change so far, mean loss since the one before


@dataclass(frozen=True)
class PictureTuning:
    """Settings of a fine-tune by AdamW. The text encoder is not trained."""

    mode: TuningMode = "lora"
    """Adapters on every attention of the denoiser, or all of its weights."""
    lr: float | None = None
    """Learning rate; None: 1e-4 for lora, 1e-5 for full."""
    weight_decay: float = 1e-2
    batch_size: int = 4
    rank: int = 4
    """Of the adapters."""
    seed: int = 0

    def require_precision(self, model: ModelView, owner: str) -> None:
        """Raise `SettingsError` for a full fine-tune in half precision."""
        wide = model.dtype in (torch.float32, torch.float64)
        require(
            self.mode == "lora" or wide,
            f"{owner}: mode 'full' in {model.dtype} would lose small steps: use float32 or mode 'lora'",
        )

    def run(
        self,
        model: ModelView,
        captions: Sequence[str],
        latents: Tensor,
        stops: Sequence[int],
        applied: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[TunedModel]:
        """Tune on latents (n, c, h, w) under n captions, and give the change after each of the rising steps `stops`.

        `applied` enters the edit on top of which the model is tuned; between two changes it is left.
        """
        with applied():
            trained = self._trained(model)
        rate = _LEARNING_RATES[self.mode] if self.lr is None else self.lr
        descent = Descent(list(trained.tensors.values()), rate, "adamw", self.weight_decay, self.seed)
        for stop in stops:
            with applied():
                loss = self._loss(model, captions, latents)
                with trained.student():
                    losses = descent.run(loss, stop - descent.done)
                change = trained.edit({})
            yield stop, change, sum(losses) / len(losses)

    def _trained(self, model: ModelView) -> TrainableLowRank | TrainableWeights:
        """What is trained, from the weights with which the model now computes."""
        if self.mode == "lora":
            return TrainableLowRank(model, attention_linears(model), self.rank, self.seed)
        return TrainableWeights(model, tuple(denoiser_parameters(model)))

    def _loss(self, model: ModelView, captions: Sequence[str], latents: Tensor) -> StepLoss:
        """Build the denoising loss of pictures under their captions."""
        timesteps = training_timesteps(model)
        with torch.no_grad():
            texts = model.condition(captions)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(latents), (self.batch_size,), generator=rng)
            t = timesteps[torch.randint(len(timesteps), (self.batch_size,), generator=rng)].to(model.device)
            noise = torch.randn(len(which), *latents.shape[1:], generator=rng).to(latents)
            return denoising_error(model, texts.rows(which), latents[which], noise, t).mean()

        return loss
