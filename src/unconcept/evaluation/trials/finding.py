"""The results of one trial: answers, attacks on the edit, and the suite's own figures."""

from dataclasses import dataclass
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
