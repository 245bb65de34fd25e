"""Diffusion-feature classifier: a linear probe on the denoiser's own activations.

DDAE: Xiang et al., ICCV 2023, arXiv:2303.09769. This judge needs no network but the model itself. It uses the
*unedited* model with the empty prompt, or the edit would influence its judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ModelError, require
from ..core.hashing import hash_tensors
from ..linalg.logistic import fit_logistic
from ..metrics.intervals import Rate, wilson
from ..models import Conditioning, ModelView
from ..models.diffusion.prediction_seal import PredictionSeal
from ..models.diffusion.vae import encode_images
from ..models.hooks.forward import record_outputs
from .registry import RawScore, scorer

_ACTIVATION_BATCH = 16
_TRUSTED_ACCURACY = 0.8  # held-out accuracy from which a probe's verdicts may be printed as a rate (inferred)


@dataclass(frozen=True)
class ActivationTap:
    """Says which activations of the denoiser to use: layer, timesteps and noise.

    Differs: DDAE adds new noise each time; here one set of noises serves all images, so that an image's score depends
    on it alone. The probe learns to ignore constant noise, so its accuracy does not fall at late timesteps.
    Differs: DDAE uses one timestep and does not standardise; here the features of all timesteps are concatenated and
    standardised (inferred).
    """

    layer: str = "up_blocks.1"
    """A module of the denoiser; its output is averaged over places or tokens."""
    timesteps: tuple[int, ...] = (25, 50, 100, 200)
    """Timesteps of the training schedule."""
    draws: int = 1
    """Number of noises averaged at each timestep."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            len(self.timesteps) > 0 and min(self.timesteps) >= 0,
            f"timesteps is {self.timesteps}: give one or more, all >= 0",
        )
        require(self.draws >= 1, f"draws = {self.draws}: give 1 or more")


@torch.no_grad()
def activations(model: ModelView, pictures: Tensor, tap: ActivationTap) -> Tensor:
    """Return the layer's c channels, pooled, at each of T timesteps: (b, T * c) float64 on the CPU."""
    require(
        not model.original_weights,
        "the probe needs the unedited model, but an edit is applied: leave the edit's `applied` first",
        ModelError,
    )
    modules = dict(model.modules("denoiser").named_modules())
    near = ", ".join(name for name in modules if name and name.count(".") == tap.layer.count("."))
    require(tap.layer in modules, f"the denoiser has no {tap.layer!r}; at this depth it has {near}", ModelError)
    known = len(model.schedule.alpha)
    require(max(tap.timesteps) < known, f"timestep {max(tap.timesteps)} is too large: the model's schedule has {known}")
    rows = []
    for part in pictures.split(_ACTIVATION_BATCH):
        latents, empty = encode_images(model, part), model.condition([""] * len(part))
        pooled = []
        for t in tap.timesteps:
            with record_outputs(modules[tap.layer]) as outputs:
                for draw in range(tap.draws):
                    _predict(model, latents, t, _noise(model, tap.seed + draw), empty)
            pooled.append(torch.stack([_pool(out) for out in outputs]).mean(0))
        rows.append(torch.cat(pooled, 1))
    return torch.cat(rows)


def _predict(model: ModelView, latents: Tensor, t: int, noise: Tensor, empty: Conditioning) -> Tensor:
    steps = torch.full((len(latents),), t, device=latents.device)
    return model.denoise(model.schedule.add_noise(latents, noise.to(latents).expand_as(latents), steps), steps, empty)


def _noise(model: ModelView, seed: int) -> Tensor:
    return torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def _pool(out: Tensor) -> Tensor:
    """Average over places (b, c, h, w) or tokens (b, l, c)."""
    return (out.double().mean((2, 3)) if out.ndim == 4 else out.double().mean(1)).cpu()


@scorer("diffusion-probe", reads="picture")
class DiffusionProbe:
    """Classifies an image among given labels with a linear probe on the unedited model's own features.

    It is fitted on labelled images, a share of which is held out; `accuracy` is the probe's accuracy on that share. A
    probe fitted on a model's own images inherits the model's mistakes. Below `_TRUSTED_ACCURACY` its verdicts do not
    count.
    """

    name = "diffusion-probe"
    version = 1

    def __init__(
        self,
        model: ModelView,
        pictures: Tensor,
        labels: Sequence[str],
        tap: ActivationTap = ActivationTap(),
        held_out: float = 0.25,
        l2: float = 1.0,
    ) -> None:
        """Fit the probe on images (n, 3, h, w) in [0, 1] with one label each, at least 2 images of every label.

        `l2` is that of `fit_logistic`, on standardised features.
        """
        require(len(labels) == len(pictures), f"{len(labels)} labels for {len(pictures)} images: give one for each")
        require(0 < held_out < 1, f"held_out is {held_out}: give a share between 0 and 1")
        self.model, self.tap, self.labels = model, tap, tuple(sorted({*labels}))
        require(len(self.labels) >= 2, f"the only label is {self.labels}: give a probe two or more to tell apart")
        found = activations(model, pictures, tap)
        wanted = torch.tensor([self.labels.index(label) for label in labels])
        train, test = _split(wanted, held_out, tap.seed)
        self.mean, self.scale = found[train].mean(0), found[train].std(0, correction=0).clamp(min=1e-8)
        self.weight, self.bias = fit_logistic(self._standard(found[train]), wanted[train], len(self.labels), l2)
        hits = self._read(found[test]).argmax(1) == wanted[test]
        self.accuracy: Rate = wilson(int(hits.sum()), len(test))
        self.hash = hash_tensors({"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias})
        self.seal = PredictionSeal.of(model, tap.timesteps[-1], tap.seed)

    @property
    def is_trusted(self) -> bool:
        """Whether the held-out accuracy is at least `_TRUSTED_ACCURACY`."""
        return self.accuracy.value >= _TRUSTED_ACCURACY

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return `labels`: log-probabilities, 4 decimals, in the order of `self.labels`.

        `asked` is ignored. Raises `ModelError` if an edit is applied to the model.
        """
        self.seal.require_unedited(self.model)
        rows = self._read(activations(self.model, pictures, self.tap)).tolist()
        return [{"labels": _rounded(row)} for row in rows]

    def _standard(self, found: Tensor) -> Tensor:
        return (found - self.mean) / self.scale

    def _read(self, found: Tensor) -> Tensor:
        return (self._standard(found) @ self.weight.T + self.bias).log_softmax(1)


def _rounded(row: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in row]


def _split(wanted: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indexes of rows to fit on and to test on, with at least one of every label in each."""
    rng, train, test = torch.Generator().manual_seed(seed), [], []
    for label in wanted.unique():
        members = torch.nonzero(wanted == label).flatten()
        require(len(members) >= 2, f"label number {int(label)} has {len(members)} image: give 2 or more of every label")
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(test)
