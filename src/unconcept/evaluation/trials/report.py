"""What a run found out, as plain data: counts, intervals, seeds, hashes; and as CSV and JSON files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...edits import origin_of
from ...edits.base import EditOrigin
from ...methods import methods
from ...prompts.sets import PROMPT_GROUPS
from ...report.csv import CsvCell, write_csv
from ...worlds.table import concept_table
from ..judging.judge import Judge, image_measures
from ..judging.rates import GroupRow, JudgeCalibration, PairedAnswer, calibrate_judge, group_rates
from ..sampling import DrawSpec
from ..suites.registry import Suite
from .finding import Finding

_SCHEMA_VERSION = 2
# Columns: the judge's word on the unedited model.
_CALIBRATION_COLUMNS = ("judge_true_positive", "judge_false_positive", "judge_nothing")
ReportStatus = Literal["ok", "PARTIAL", "FAILED"]


@dataclass(frozen=True)
class Report:
    """One run: its trials, and how it went."""

    findings: Sequence[Finding]
    suite: Suite
    spec: DrawSpec
    judge: Judge | None
    circumstances: Mapping[str, Any]  # libraries, device, seconds, memory: what may differ from run to run
    failures: tuple[str, ...] = ()
    missing: int = 0  # planned pictures, scores or attacks that are not there
    reasons: Mapping[str, str] | None = None  # why the request is as it is
    recipe: str | None = None

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
        """What was done to the concepts, as a heading says it."""
        made_by = origin_of_finding(self.findings[0]).method if self.findings else ""
        return "debiased in" if made_by in methods and methods[made_by].does == "debias" else "erased from"

    def data(self) -> dict[str, Any]:
        """Everything but the circumstances: the same run gives the same data on every
        machine with the same pictures.
        """
        judge = self.judge.open() if self.judge and self.judged else None
        return {
            "schema": _SCHEMA_VERSION,
            "status": self.status,
            "failures": list(self.failures),
            "missing": self.missing,
            "suite": self.suite.name,
            "drawing": {
                "steps": self.spec.steps,
                "guidance_scale": self.spec.guidance_scale,
                "sampler": self.spec.sampler,
            },
            "judge": (
                {"name": judge.name, "version": judge.version, "hash": judge.hash, "policy": self.judge.policy}
                if judge and self.judge
                else None
            ),
            "measures": self._measures(),
            "table_hash": concept_table().hash if judge and self.judge and self.judge.knows_table else None,
            "reasons": dict(self.reasons or {}),
            "recipe": self.recipe,
            "trials": [trial_data(finding) for finding in self.findings],
        }

    def _measures(self) -> list[dict[str, Any]]:
        names = [figure.name for finding in self.findings for figure in finding.figures]
        measured = self.judge is not None and any("@" in name for name in names)
        return image_measures(self.judge).used(names) if self.judge and measured else []


def group_rows(finding: Finding) -> list[GroupRow]:
    """The groups' rates of one trial."""
    return group_rates(finding.answered_trial.answers)


def judge_calibration(findings: Sequence[Finding]) -> JudgeCalibration | None:
    """How far the judge can be trusted, if it was asked for a target.

    Several edits of the same concepts were asked about the same pictures.
    """
    asked: dict[tuple[str, ...], Sequence[PairedAnswer]] = {}
    for answered in (finding.answered_trial for finding in findings):
        if any(a.check.group == "direct" for a in answered.answers):
            asked.setdefault(answered.trial.concepts, answered.answers)
    return calibrate_judge(*asked.values()) if asked else None


def origin_of_finding(finding: Finding) -> EditOrigin:
    """The header of the trial's edit."""
    return origin_of(finding.answered_trial.trial.edit)


def trial_data(finding: Finding) -> dict[str, Any]:
    """One trial as plain data."""
    answered = finding.answered_trial
    trial, found, trust = answered.trial, group_rows(finding), judge_calibration([finding])
    # They stand in run.json.
    made = {name: part for name, part in asdict(origin_of_finding(finding)).items() if name != "libraries"}
    return {
        "label": trial.label,
        "concepts": list(trial.concepts),
        "edit": {**made, "hash": trial.subject.edit_hash, "strength": trial.subject.strength},
        "cost": dict(trial.cost),
        "asked": len(answered.checks),
        "answered": len(answered.answers),
        "calibration": asdict(trust) if trust else None,
        "groups": {row.group: {name: part for name, part in asdict(row).items() if name != "group"} for row in found},
        "not_asked": {
            group: "no prompts of this group" for group in PROMPT_GROUPS if group not in {row.group for row in found}
        },
        "figures": [asdict(figure) for figure in finding.figures],
        "attacks": [asdict(row) for row in finding.attack_results],
        "checks": [
            {
                "text": a.check.prompt.text,
                "seed": a.check.prompt.seed,
                "group": a.check.group,
                "concept": a.check.concept,
                "before": a.before,
                "after": a.after,
            }
            for a in answered.answers
        ],
    }


def write_run(report: Report, folder: Path) -> None:
    """`run.json`: what made the edits, when and where."""
    edits = [
        {"hash": finding.answered_trial.trial.subject.edit_hash, **finding.answered_trial.trial.cost}
        for finding in report.findings
    ]
    _write(folder / "run.json", {**report.circumstances, "edits": edits, "failures": list(report.failures)})


def write_data(report: Report, folder: Path) -> dict[str, Any]:
    """`report.json`, one CSV row a trial and group in `results.csv`, and one a trial and attack in `attacks.csv` where
    there were any.
    """
    data = report.data()
    _write(folder / "report.json", data)
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
        )
        write_csv(folder / "attacks.csv", ("label", "concept", *parts), attacked)
    return data


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
        lines.append((label, row.concept, row.attack, row.rung, *rates, row.seconds, asr.n))
    return lines


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
