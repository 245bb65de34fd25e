"""The results of one trial: answers, attacks on the edit, and the suite's own figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ...prompts.checks import Prompt
from ...report.ladder_data import LadderData
from ..attacks.rates import AttackRow
from ..judging.evidence import SuiteFigure
from ..judging.rates import PairedAnswer
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
    ladder: LadderData | None = None
    """The ladder of attacks, if one was climbed."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What stands beside the figures: name and one line."""

    @property
    def label(self) -> str:
        """Label of its row in tables."""
        return self.answered_trial.trial.label

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that the edit erases."""
        return self.answered_trial.trial.concepts

    @property
    def cost(self) -> Mapping[str, float]:
        """Cost of the edit: seconds, bytes, parameters."""
        return self.answered_trial.trial.cost

    @property
    def answers(self) -> tuple[PairedAnswer, ...]:
        """The judge's answers before and after."""
        return self.answered_trial.answers


def notes_of(findings: Iterable[Finding]) -> dict[str, str]:
    """The notes of all trials; one that several trials share stands once, others by their trial's label."""
    found: dict[str, str] = {}
    for finding in findings:
        for name, note in finding.notes.items():
            key = name if found.setdefault(name, note) == note else f"{name}, {finding.label}"
            found[key] = note
    return found


def missing_results(
    planned: int, found: Sequence[Finding], pictures: Sequence[Mapping[Prompt, tuple[Tensor, Tensor]]], judged: bool
) -> int:
    """Count planned results that are missing: edits, answers, and attacked prompts, ceilings included.

    If nobody judges, pictures are what is planned. `pictures[i]`: those of finding i before and after, by prompt.
    """
    missing = planned - len(found)
    for finding, sides in zip(found, pictures, strict=True):
        missing += sum(row.missing + (0 if row.ceiling else row.success.n) for row in finding.attack_results)
        missing += sum(rung.missing for rung in finding.ladder.rungs) if finding.ladder else 0
        prompts = set(finding.answered_trial.drawn if judged else finding.answered_trial.prompts)
        missing += len(prompts - sides.keys()) + (finding.answered_trial.missing if judged else 0)
    return missing
