"""Recognises a subject that no judge knows, by features: is a picture nearer to its pictures than to anything else?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import DataError, require
from ...scorers import FeatureScorer


@dataclass(frozen=True)
class Recogniser:
    """Compares pictures with those of the subject and with others, by the cosine of their features.

    The others are what the model draws under the same prompts before it learns anything, and pictures of other things.
    """

    scorer: FeatureScorer
    own: Tensor
    """Unit features (n, d) of the subject's clean pictures."""
    others: Tensor
    """Unit features (m, d) of anything else."""

    @classmethod
    def of(cls, scorer: FeatureScorer, own: Tensor, others: Tensor) -> "Recogniser":
        """Make it from pictures (n, 3, h, w) and (m, 3, h, w)."""
        require(len(own) > 0 and len(others) > 0, "recognition needs pictures of the subject and of others", DataError)
        return cls(scorer, _unit_features(scorer, own), _unit_features(scorer, others))

    def likeness(self, pictures: Tensor) -> Tensor:
        """The largest cosine (b,) of each picture with one of the subject."""
        return (_unit_features(self.scorer, pictures) @ self.own.T).amax(1)

    def recognised(self, pictures: Tensor) -> Tensor:
        """Whether the nearest of all pictures is one of the subject (b,)."""
        features = _unit_features(self.scorer, pictures)
        found: Tensor = (features @ self.own.T).amax(1) > (features @ self.others.T).amax(1)
        return found


@torch.no_grad()
def _unit_features(scorer: FeatureScorer, pictures: Tensor) -> Tensor:
    return F.normalize(scorer.features(pictures).float(), dim=1)
