"""All that is known of one trial: its answers, the attacks on its edit, and the suite's own figures."""

from dataclasses import dataclass
from pathlib import Path

from ..attacks.rates import AttackRow
from ..judging.evidence import SuiteFigure
from .trial import AnsweredTrial


@dataclass(frozen=True)
class Finding:
    """All that is known of one trial."""

    answered_trial: AnsweredTrial
    attack_results: tuple[AttackRow, ...] = ()
    figures: tuple[SuiteFigure, ...] = ()
    adversarial_files: tuple[tuple[str, Path], ...] = ()
    """What attacks found: name of the attack, file."""
