"""Diffusion-feature classifier: a linear probe on the denoiser's own activations.

DDAE: Xiang et al., ICCV 2023, arXiv:2303.09769. This judge needs no network but the model itself. It uses the
*unedited* model with the empty prompt, or the edit would influence its judge.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import DataError, ModelError, SettingsError, require
from ..core.hashing import hash_tensors
from ..linalg.logistic import fit_logistic
from ..metrics.intervals import Rate, wilson
from ..metrics.score_policies import argmax
from ..models import Conditioning, ModelView
from ..models.diffusion.prediction_seal import PredictionSeal
from ..models.diffusion.vae import encode_images, picture_size
from ..models.hooks.forward import record_outputs
from ..models.images import read_picture_folder
from ..prompts.checks import Check
from .registry import AnswerReader, RawScore, scorer

_ACTIVATION_BATCH = 16
_LEAST_PICTURES = 4  # of a label; one of four is held out
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

    def seconds_per_picture(self) -> float:
        """Estimate the seconds for one picture, from one timed picture."""
        grey = torch.full((1, 3, *picture_size(self.model)), 0.5, device=self.model.device)
        activations(self.model, grey, self.tap)  # The first call builds.
        begun = time.perf_counter()
        activations(self.model, grey, self.tap)
        return time.perf_counter() - begun

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


def _most_likely(opened: DiffusionProbe, raw: RawScore, check: Check) -> str:
    return argmax(raw["labels"], opened.labels)


_READER = AnswerReader(
    _most_likely,
    policy="most likely label of a linear probe",
    wants_path="diffusion-probe=FOLDER with a folder of pictures for each label, the concept's and others'",
    needs_model=True,
    caveat="a probe on the unedited model's own features, not an independent judge",
    grades_white_box=False,
    pictures_at_once=_ACTIVATION_BATCH,
    aspects=frozenset({"object", "style"}),
)


@scorer("diffusion-probe", reads="picture", reader=_READER)
def probe_of_folder(
    path: str | Path, model: ModelView, model_key: str = "", styles: Sequence[str] = (), targets: Sequence[str] = ()
) -> DiffusionProbe:
    """Classifies an image among the labels of a folder with a linear probe on the unedited model's own features.

    Each folder in it is named as a label and holds at least 4 pictures. `SettingsError` if an erased concept is no
    label, or if the probe is right of too few of the pictures that are held out.
    """
    folders = sorted(each for each in Path(path).iterdir() if each.is_dir()) if Path(path).is_dir() else []
    message = f"{path}: give a folder with one folder of pictures for each label, at least two"
    require(len(folders) >= 2, message, DataError)
    names = [folder.name for folder in folders]
    missing = [target for target in targets if target not in names]
    message = f"{path} has no folder {missing[0] if missing else ''!r} with pictures of the erased concept: add one"
    require(not missing, message, SettingsError)
    pictures = [read_picture_folder(folder, model, _LEAST_PICTURES) for folder in folders]
    labels = [name for name, own in zip(names, pictures, strict=True) for _ in own]
    found = DiffusionProbe(model, torch.cat(pictures), labels, usual_tap(model))
    right = f"{found.accuracy.value:.0%} of {found.accuracy.n} held-out pictures"
    message = f"{path}: the probe is right on {right}, under {_TRUSTED_ACCURACY:.0%}: give more pictures of each label"
    require(found.is_trusted, message, SettingsError)
    return found


def usual_tap(model: ModelView) -> ActivationTap:
    """The tap for a model's denoiser: a UNet's second upward block, or the middle block of a transformer."""
    modules = dict(model.modules("denoiser").named_modules())
    if ActivationTap.layer in modules:
        return ActivationTap()
    blocks = next(modules[name] for name in ("transformer_blocks", "layers") if name in modules)
    name = next(name for name, module in modules.items() if module is blocks)
    return replace(ActivationTap(), layer=f"{name}.{len(list(blocks.children())) // 2}")
