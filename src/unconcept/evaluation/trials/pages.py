"""Turns a run's findings into pages, cards and tables, and writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...prompts.checks import Check, Prompt
from ...prompts.sets import PROMPT_GROUPS, PromptGroup
from ...report.environment import command_line
from ...report.html import (
    GROUP_MEANINGS,
    ReportPage,
    ReportSection,
    limit_notes,
    trade_off_svg,
    write_card,
    write_report_page,
)
from ...report.images import ImagePair, to_image
from ...report.markdown import DETECTABLE_MEANING, attacks_table, change_table, results_table
from ...worlds.registry import embedded_world
from ..judging.rates import PairedAnswer
from .finding import Finding
from .report import Report, judge_calibration, trial_data
from .variants import variant_rows

PicturePairs = Mapping[Prompt, tuple[Tensor, Tensor]]
_IMAGES_PER_GROUP, _IMAGES_PER_TRIAL = 12, 4  # pairs shown per group: with a single trial, with several trials


def report_page(report: Report, pictures: Sequence[PicturePairs] = ()) -> ReportPage:
    """Build the page. `pictures[i]`: pictures of trial i before and after, by prompt; empty for a page without."""
    meaning = {**GROUP_MEANINGS, **report.suite.meaning}
    checks = [check for finding in report.findings for check in finding.answered_trial.checks]
    count = _IMAGES_PER_GROUP if len(report.findings) == 1 else _IMAGES_PER_TRIAL
    return ReportPage(
        title=report.title,
        action=report.action,
        report=report.record(),
        run={**report.circumstances, "command": command_line(with_folders=False)},
        sections=[
            _section(finding, sides, count)
            for finding, sides in zip(report.findings, pictures or [{}] * len(report.findings), strict=True)
        ],
        pooled={one.label: one.groups for one in variant_rows(report.findings)},
        meaning=meaning,
        limits=limit_notes({check.group for check in checks}, meaning),
    )


def write_pages(report: Report, pictures: Sequence[PicturePairs], folder: Path) -> None:
    """Write `report.html`."""
    write_report_page(report_page(report, pictures), folder / "report.html")


def write_edit_card(report: Report, folder: Path) -> None:
    """Write `README.md`, the model card of a single edit."""
    trial = report.findings[0].answered_trial.trial
    write_card(
        report_page(report),
        len(trial.edit.names),
        embedded_world(trial.subject.model) is not None,
        folder / "README.md",
    )


def write_tables(findings: Sequence[Finding], folder: Path, caveat: str = "") -> None:
    """Write `results.md`, the chart `results.svg` of efficacy against specificity and, if there were attacks,
    `attacks.md`. `caveat` says what the judge's word is worth, if it is not independent.
    """
    calibration, variants = judge_calibration(findings), variant_rows(findings)
    trust = f"\n{' '.join(filter(None, (caveat, str(calibration))))}\n" if calibration else ""
    tables = f"{results_table(variants)}\n{change_table(variants)}\n{DETECTABLE_MEANING}\n{trust}"
    (folder / "results.md").write_text(tables, encoding="utf-8")
    (folder / "results.svg").write_text(trade_off_svg({one.label: one.groups for one in variants}), encoding="utf-8")
    if any(finding.attack_results or finding.out_of_reach for finding in findings):
        (folder / "attacks.md").write_text(f"{attacks_table(variants)}{trust}", encoding="utf-8")


def write_samples(finding: Finding, pictures: PicturePairs, folder: Path) -> None:
    """Write every picture, before and after, as PNG to `samples/`."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    groups = {check.prompt: check.group for check in reversed(finding.answered_trial.checks)}
    for number, (prompt, sides) in enumerate(pictures.items()):
        for name, picture in zip(("before", "after"), sides, strict=True):
            to_image(picture).save(samples / f"{number:03d}-{groups[prompt]}-{name}.png")


def _section(finding: Finding, pictures: PicturePairs, count: int) -> ReportSection:
    answered = finding.answered_trial
    answers = {answer.check: answer for answer in answered.answers}
    images: dict[PromptGroup, list[ImagePair]] = {}
    for group in PROMPT_GROUPS:
        # Checks of styles use the pictures of far objects, which are shown already.
        if group != "style" or all(check.group != "far" for check in answered.checks):
            members = [check for check in answered.checks if check.group == group and check.prompt in pictures]
            images[group] = [_pair(check, pictures, answers.get(check)) for check in _shown(members, count)]
    return ReportSection(trial_data(finding), images, str(judge_calibration([finding]) or ""))


def _shown(members: Sequence[Check], count: int) -> list[Check]:
    """Choose the checks that a page shows: one of every concept first, then others up to `count`."""
    first = {check.concept: check for check in reversed(members)}
    leading = sorted(first.values(), key=members.index)
    return [*leading, *(check for check in members if first[check.concept] is not check)][: max(count, len(leading))]


def _pair(check: Check, pictures: PicturePairs, answer: PairedAnswer | None) -> ImagePair:
    before, after = pictures[check.prompt]
    if answer is None:
        return ImagePair(check.prompt.text, before, after)
    return ImagePair(check.prompt.text, before, after, (answer.before, answer.after), answer.hits)
