"""Where drawing starts, if not from noise: a picture at a level, or what an inversion of one found, and its file."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import DataError, SettingsError, require
from ..core.regular_files import require_regular_file
from ..models import ModelView
from ..models.checkpoint.safetensors_io import write_tensors
from ..models.diffusion.inversion import inversion_timesteps, invert_edit_friendly, invert_latents
from ..models.diffusion.sampler import Sampler
from ..models.diffusion.vae import encode_images, require_picture_size
from ..models.images import read_picture
from ..models.model_view import SamplingStart
from .sampling import DrawSpec, StartMaker

_FORMAT = "unconcept-inverted"


@torch.no_grad()
def clean_latents(model: ModelView, path: Path) -> Tensor:
    """The latents (1, c, h, w) of a picture file of the model's own size; `DataError` for any other."""
    picture = read_picture(path)[None]
    require_picture_size(model, picture, str(path))
    return encode_images(model, picture)


def start_from_picture(model: ModelView, path: Path, level: float, spec: DrawSpec) -> StartMaker:
    """Start every picture from one, noised to a level above 0 and up to 1 (image-to-image)."""
    sampler = Sampler(model, spec.steps, spec.sampler)
    k, latents = sampler.begin_at(level), clean_latents(model, path)

    def start(noise: Tensor) -> SamplingStart:
        given = noise.to(latents)
        return SamplingStart(sampler.add_noise(latents.expand_as(given), given, k), k)

    return start


@dataclass(frozen=True)
class InvertedPicture:
    """What an inversion found: the latents from which a sampler draws a picture again."""

    start: SamplingStart  # of one picture
    steps: int
    sampler: str | None

    def spec(self, spec: DrawSpec) -> DrawSpec:
        """Sampler settings with the inversion's own sampler; `SettingsError` for another number of steps."""
        message = f"{spec.steps} sampler steps: the picture was inverted in {self.steps}, give --steps {self.steps}"
        require(spec.steps == self.steps, message, SettingsError)
        return replace(spec, sampler=self.sampler)

    def of(self, noise: Tensor) -> SamplingStart:
        """The start of as many pictures as there are rows of noise (b, c, h, w), which is not used otherwise."""
        own = self.start
        rows = None if own.residuals is None else own.residuals.expand(-1, len(noise), -1, -1, -1)
        return SamplingStart(own.latents.expand(len(noise), -1, -1, -1), own.k, rows)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"latents": self.start.latents.float().cpu().contiguous()}
        if self.start.residuals is not None:
            tensors["residuals"] = self.start.residuals.float().cpu().contiguous()
        write_tensors(path, tensors, {"format": _FORMAT, "steps": str(self.steps), "sampler": self.sampler or ""})


def load_inverted(path: Path) -> InvertedPicture:
    """Load what `InvertedPicture.save` wrote; `DataError` for any other file."""
    require_regular_file(path, DataError)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            message = f"{path} is no inverted picture: give a picture, or a file that `unconcept invert` wrote"
            require(header.get("format") == _FORMAT, message, DataError)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        start = SamplingStart(tensors["latents"], 0, tensors.get("residuals"))
        return InvertedPicture(start, int(header["steps"]), header["sampler"] or None)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}; give a picture, or a file that `unconcept invert` wrote") from None


def inversion_kind(model: ModelView, by: str | None) -> str:
    """The named inversion, or the usual one of the model's kind; `SettingsError` for one that it does not have."""
    allowed = ("flow",) if model.schedule.prediction_type == "flow" else ("ddim", "edit-friendly")
    kind = by or allowed[0]
    require(kind in allowed, f"inversion {kind!r} is not for {model.family} models: give {' or '.join(allowed)}")
    return kind


@torch.no_grad()
def invert_picture(
    model: ModelView, path: Path, prompt: str, spec: DrawSpec, by: str | None = None, seed: int = 0
) -> InvertedPicture:
    """Invert a picture file with the model as it now computes, under a prompt and the guidance of `spec`.

    `by` None is DDIM's inversion, or along a flow its own. `SettingsError` for one that the model's kind does not have.
    """
    kind = inversion_kind(model, by)
    latents, name = clean_latents(model, path), None if kind == "flow" else "ddim"
    sampler = Sampler(model, spec.steps, name, eta=1.0 if kind == "edit-friendly" else 0.0)
    guidance = model.guide([prompt], spec.guidance_scale)
    if kind == "edit-friendly":
        generators = [torch.Generator().manual_seed(seed)]
        return InvertedPicture(invert_edit_friendly(sampler, latents, guidance, generators).start(), spec.steps, name)
    noise = invert_latents(model, latents, guidance, inversion_timesteps(sampler))
    return InvertedPicture(SamplingStart(noise), spec.steps, name)
