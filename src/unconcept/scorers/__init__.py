"""The scorers, which map images to raw scores, one file each. Importing the package finds the files."""

from ..core.registry import import_entries
from .registry import (
    NOTHING_LABEL,
    AgreementScorer,
    AnswerReader,
    Captioner,
    FeatureScorer,
    PairScorer,
    RawScore,
    Scorer,
    ScorerInfo,
    scorer,
    scorers,
)

import_entries(__name__)

__all__ = [
    "NOTHING_LABEL",
    "AgreementScorer",
    "AnswerReader",
    "Captioner",
    "FeatureScorer",
    "PairScorer",
    "RawScore",
    "Scorer",
    "ScorerInfo",
    "scorer",
    "scorers",
]
