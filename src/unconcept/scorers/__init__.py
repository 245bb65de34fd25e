"""Judges: pictures to raw scores, decisions later. Files are found by name, so adding a scorer edits no list."""

import importlib
import pkgutil

from .registry import (
    NOTHING_LABEL,
    AnswerReader,
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
    "AnswerReader",
    "FeatureScorer",
    "PairScorer",
    "RawScore",
    "Scorer",
    "ScorerInfo",
    "scorer",
    "scorers",
]
