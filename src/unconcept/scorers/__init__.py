"""The scorers, which map images to raw scores, one file each. Importing the package finds the files."""

import importlib
import pkgutil

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

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

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
