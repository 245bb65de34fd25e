"""Eyes beside a text encoder: what methods that see are given."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class Sight(Protocol):
    """A CLIP whose text tower is one of the model's text encoders: pictures and texts in one space."""

    @property
    def scale(self) -> float:
        """Of cosines in the loss it was trained with."""

    def see(self, pictures: Tensor) -> Tensor:
        """(b, d) of unit length, of pictures (b, 3, H, W) in [0, 1]."""

    def read(self, texts: Sequence[str]) -> Tensor:
        """(n, d) of unit length, by the encoder as it computes now; differentiable in its weights."""


Sights = Mapping[str, Sight]  # by the encoder's part: `text_encoder`, `text_encoder_2`
