"""Examples to forget and to retain: labelled images for a classifier, pictures with prompts for a diffusion model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import RequestError, require
from ...core.hashing import hash_tensors
from ...core.seeds import picture_seeds
from ...models import ModelView
from ...prompts.safety import require_drawable
from ..budget import number_in_turn
from ..goals import TextEncodings
from ..images.picture_sets import PictureSet
from ..images.training_images import take_in_turn
from ..session import draw_or_rehearse
from ..trajectories import GuidedSampler


@dataclass(frozen=True)
class LabelledImages:
    """Images (n, ..) with their labels (n,)."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        message = f"images and labels must be as many, got {len(self.x)} and {len(self.y)}"
        require(len(self.x) == len(self.y), message, RequestError)

    def batch(self, step: int, rows: int, seed: int) -> "LabelledImages":
        """Return the images of a step; each epoch goes through all of them in its own random order."""
        chosen = [number_in_turn(row, len(self.x), seed) for row in range(step * rows, (step + 1) * rows)]
        return LabelledImages(self.x[chosen], self.y[chosen])

    def of_classes(self, classes: Sequence[int]) -> "LabelledImages":
        """Return the images of these classes."""
        chosen = torch.isin(self.y, torch.tensor(list(classes)))
        return LabelledImages(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class ClassRequest:
    """An order to a classifier: images to forget, and images whose answers are retained."""

    forget: LabelledImages
    retain: LabelledImages

    def __post_init__(self) -> None:
        message = "there is nothing to forget: give images of the classes to be forgotten"
        require(len(self.forget.x) > 0, message, RequestError)
        message = "there are no images to retain, and without them everything would be forgotten: give some"
        require(len(self.retain.x) > 0, message, RequestError)

    @property
    def hash(self) -> str:
        """Of all images and labels."""
        both = {"forget": self.forget, "retain": self.retain}
        return hash_tensors({f"{side}.{name}": t for side, own in both.items() for name, t in vars(own).items()})


def draw_latents(
    model: ModelView, prompts: Sequence[str], count: int, steps: int, guidance_scale: float, seed: int
) -> PictureSet:
    """Draw `count` pictures with the current model, at least one of each prompt; they are never decoded.

    Raises `RequestError` for a prompt that is never drawn.
    """
    require_drawable(prompts)
    shown = take_in_turn([list(prompts)], max(count, len(prompts)))
    walk = GuidedSampler(model, TextEncodings.of(model), steps, guidance_scale)
    seeds = picture_seeds(seed, len(shown))

    @torch.no_grad()
    def draw(part: slice, steps: int) -> Tensor:
        return walk.denoise_steps(walk.initial_latents(seeds[part]), shown[part], 0, steps)

    return PictureSet(draw_or_rehearse(model, len(shown), steps, draw), tuple(shown), seed=seed)
