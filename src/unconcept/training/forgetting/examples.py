"""Labelled images that a classifier forgets, and those that it retains."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import RequestError, require
from ...core.hashing import hash_tensors
from ..budget import number_in_turn


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
