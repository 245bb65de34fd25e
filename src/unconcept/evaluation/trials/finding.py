"""The results of one trial: answers, attacks on the edit, and the suite's own figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..attacks.rates import AttackRow
from ..judging.evidence import SuiteFigure
from .trial import AnsweredTrial


@dataclass(frozen=True)
class Finding:
    """The results of one trial."""

    answered_trial: AnsweredTrial
    attack_results: tuple[AttackRow, ...] = ()
    figures: tuple[SuiteFigure, ...] = ()
    adversarial_files: tuple[tuple[str, Path], ...] = ()
    """Files of inputs that attacks found: (name of the attack, file)."""
    out_of_reach: Mapping[str, str] = field(default_factory=dict)
    """Attacks that cannot act on the edit, which have no result: name and reason."""
