"""The report of a run as plain data (counts, intervals, seeds, hashes), and as JSON and CSV files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...attacks import attacks
from ...edits import origin_of
from ...edits.base import EditOrigin
from ...methods import MethodTask, methods
from ...models.loading import absolute_source
from ...prompts.sets import PROMPT_GROUPS
from ...report.csv import CsvCell, write_csv
from ...report.data import (
    AnswerData,
    AttackData,
    CalibrationData,
    CostData,
    DrawingData,
    EditData,
    FigureData,
    GroupData,
    JudgeData,
    MeasureData,
    ReportData,
    ReportStatus,
    RunData,
    RunEditData,
    TrialData,
    write_json,
)
from ...report.forget_set_data import ForgetSetsData
from ...worlds.table import concept_table
from ..judging.judge import Judge, image_measures
from ..judging.rates import GroupRow, JudgeCalibration, PairedAnswer, calibrate_judge, drawn_instead, group_rates
from ..sampling import DrawSpec
from ..suites.registry import Suite
from .finding import Finding
from .variants import TrialAnswers

# Columns for the judge's accuracy on the unedited model.
_CALIBRATION_COLUMNS = ("judge_true_positive", "judge_false_positive", "judge_nothing")

_ACTIONS: dict[MethodTask, str] = {"erase": "erased from", "debias": "debiased in", "keep": "kept in"}


@dataclass(frozen=True)
class Report:
    """The report of one run: its trials, failures and missing results."""

    findings: Sequence[Finding]
    suite: Suite
    spec: DrawSpec
    judge: Judge | None
    circumstances: Mapping[str, Any]  # libraries, device, seconds, memory: what may differ from run to run
    failures: tuple[str, ...] = ()
    missing: int = 0  # planned pictures, scores or attacks that are not there
    reasons: Mapping[str, str] | None = None  # why the request is as it is
    recipe: str | None = None
    forget_sets: ForgetSetsData | None = None

    @property
    def status(self) -> ReportStatus:
        return "FAILED" if self.failures else "PARTIAL" if self.missing else "ok"

    @property
    def judged(self) -> bool:
        return any(finding.answered_trial.answers for finding in self.findings)

    @property
    def title(self) -> str:
        concepts = dict.fromkeys(name for finding in self.findings for name in finding.answered_trial.trial.concepts)
        return ", ".join(concepts)

    @property
    def action(self) -> str:
        """What was done to the concepts, with its preposition, for headings."""
        made_by = origin_of_finding(self.findings[0]).method if self.findings else ""
        return _ACTIONS[methods[made_by].does if made_by in methods else "erase"]

    def record(self) -> ReportData:
        """The content of `report.json`: everything but the circumstances, so that the same pictures give the same data
        on every machine.
        """
        judge = self.judge.open() if self.judge and self.judged else None
        about = {"policy": self.judge.policy, "caveat": self.judge.reader.caveat} if self.judge else {}
        return ReportData(
            status=self.status,
            failures=self.failures,
            missing=self.missing,
            suite=self.suite.name,
            drawing=DrawingData.model_validate(self.spec),
            judge=JudgeData(name=judge.name, version=judge.version, hash=judge.hash, **about) if judge else None,
            measures=self._measures(),
            table_hash=concept_table().hash if judge and self.judge and self.judge.knows_table else None,
            reasons=dict(self.reasons or {}),
            recipe=self.recipe,
            trials=tuple(trial_data(finding) for finding in self.findings),
            forget_sets=self.forget_sets,
        )

    def data(self) -> dict[str, Any]:
        """`record` as plain data."""
        return self.record().plain()

    def _measures(self) -> tuple[MeasureData, ...]:
        names = [figure.name for finding in self.findings for figure in finding.figures]
        if self.judge is None or not any("@" in name for name in names):
            return ()
        return tuple(MeasureData.model_validate(one) for one in image_measures(self.judge).used(names))


def group_rows(finding: Finding) -> list[GroupRow]:
    """Rates by group of one trial."""
    return group_rates(finding.answered_trial.answers)


def judge_calibration(trials: Sequence[TrialAnswers]) -> JudgeCalibration | None:
    """Accuracy of the judge on the unedited model; None if no check is about a target.

    Edits of the same concepts share the same unedited pictures, so these count once.
    """
    asked: dict[tuple[str, ...], Sequence[PairedAnswer]] = {}
    for trial in trials:
        if any(a.check.group == "direct" for a in trial.answers):
            asked.setdefault(trial.concepts, trial.answers)
    return calibrate_judge(*asked.values()) if asked else None


def origin_of_finding(finding: Finding) -> EditOrigin:
    """The header of the trial's edit."""
    return origin_of(finding.answered_trial.trial.edit)


def trial_data(finding: Finding) -> TrialData:
    """Convert one trial to its data model."""
    answered = finding.answered_trial
    trial, found, trust = answered.trial, group_rows(finding), judge_calibration([finding])
    asked = {row.group for row in found}
    return TrialData(
        label=trial.label,
        concepts=trial.concepts,
        edit=_edit_data(finding),
        cost=CostData.model_validate(trial.cost),
        asked=len(answered.checks),
        answered=len(answered.answers),
        calibration=CalibrationData.model_validate(trust) if trust else None,
        groups={row.group: GroupData.model_validate(row) for row in found},
        not_asked={group: "no prompts of this group" for group in PROMPT_GROUPS if group not in asked},
        instead=drawn_instead(answered.answers),
        figures=tuple(FigureData.model_validate(figure) for figure in finding.figures),
        attacks=tuple(AttackData.model_validate(row) for row in finding.attack_results),
        out_of_reach=dict(finding.out_of_reach),
        ladder=finding.ladder,
        checks=tuple(_answer_data(answer) for answer in answered.answers),
    )


def _edit_data(finding: Finding) -> EditData:
    subject = finding.answered_trial.trial.subject
    # Library versions are in run.json instead.
    header = vars(origin_of_finding(finding))
    made = {name: part for name, part in header.items() if name not in ("libraries", "adviser", "text_side")}
    return EditData(**made, hash=subject.edit_hash or "", strength=subject.strength)


def _answer_data(answer: PairedAnswer) -> AnswerData:
    check = answer.check
    return AnswerData(
        text=check.prompt.text,
        seed=check.prompt.seed,
        group=check.group,
        concept=check.concept,
        before=answer.before,
        after=answer.after,
    )


def write_run(report: Report, folder: Path) -> None:
    """Write `run.json`: environment, timings, and hash and cost of each edit."""
    trials = [finding.answered_trial.trial for finding in report.findings]
    edits = [RunEditData.model_validate({"hash": trial.subject.edit_hash, **trial.cost}) for trial in trials]
    base = absolute_source(trials[0].subject.model) if trials else None
    run = RunData(base=base, **report.circumstances, edits=tuple(edits), failures=report.failures)
    write_json(folder / "run.json", run.model_dump(mode="json"))


def write_data(report: Report, folder: Path) -> None:
    """Write `report.json`, `results.csv` with one row per trial and group, and, if there were attacks, `attacks.csv`
    with one row per trial and attack.
    """
    write_json(folder / "report.json", report.data())
    head = (
        "label",
        "concept",
        "group",
        "before",
        "after",
        "change",
        "change_low",
        "change_high",
        "nothing",
        "p",
        "detectable",
        "n",
        *_CALIBRATION_COLUMNS,
    )
    write_csv(folder / "results.csv", head, [line for finding in report.findings for line in _lines(finding)])
    attacked = [line for finding in report.findings for line in _attack_lines(finding)]
    if attacked:
        parts = (
            "attack",
            "rung",
            "unattacked",
            "floor",
            "success",
            "success_low",
            "success_high",
            "ceiling",
            "nothing",
            "seconds",
            "n",
            "not_applicable",
        )
        write_csv(folder / "attacks.csv", ("label", "concept", *parts), attacked)


def _lines(finding: Finding) -> list[tuple[CsvCell, ...]]:
    trial = finding.answered_trial.trial
    named = trial.label, ", ".join(trial.concepts)
    trust = judge_calibration([finding])
    known = [trust.true_positive, trust.false_positive, trust.nothing] if trust else [None, None, None]
    trusted = [rate.value if rate else None for rate in known]
    return [
        (
            *named,
            row.group,
            row.before.value,
            row.after.value,
            row.change.value,
            row.change.low,
            row.change.high,
            row.nothing.value,
            row.p,
            row.detectable,
            row.after.n,
            *trusted,
        )
        for row in group_rows(finding)
    ]


def _attack_lines(finding: Finding) -> list[tuple[CsvCell, ...]]:
    label = finding.answered_trial.trial.label
    lines: list[tuple[CsvCell, ...]] = []
    for row in finding.attack_results:
        ceiling, nothing = (rate.value if rate else None for rate in (row.ceiling, row.nothing))
        asr = row.success
        rates = (row.pre.value, row.floor.value, asr.value, asr.low, asr.high, ceiling, nothing)
        lines.append((label, row.concept, row.attack, row.rung, *rates, row.seconds, asr.n, None))
    concept, blank = finding.answered_trial.trial.concepts[0], [None] * 9
    for name, reason in finding.out_of_reach.items():
        lines.append((label, concept, name, attacks[name].rung, *blank, reason))
    return lines
