"""The report as one self-contained HTML page, pictures first, and the model card of a single edit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from torch import Tensor

from ...prompts.checks import Prompt
from ...prompts.sets import PROMPT_GROUPS
from ...report.images import data_uri, to_image
from ...report.svg import ScatterPoint, scatter_svg, success_curve_svg
from ...worlds.registry import embedded_world
from ..judging.rates import GroupRow
from .finding import Finding
from .markdown import attacks_table, change_table, group_by_label, pooled_group_rates, results_table
from .report import Report, group_rows, judge_calibration, origin_of_finding, trial_data

ImagePairs = Mapping[Prompt, tuple[Tensor, Tensor]]
_IMAGES_PER_GROUP, _IMAGES_PER_TRIAL = 12, 4  # pictures of a group in the grid, of one trial and of each of several
_GROUP_MEANINGS = {
    "direct": ("target", "the concept by its own name", "should fall"),
    "synonym": ("synonyms", "other words for it that the request did not hold", "should fall"),
    "paraphrase": ("paraphrases", "whole sentences about it in other words", "should fall"),
    "indirect": ("indirect", "wordings that do not name it", "should fall"),
    "co-occurring": ("beside it", "another object drawn beside it", "should stay"),
    "near": ("near", "its nearest neighbours that the request did not hold", "should stay"),
    "far": ("far", "unrelated objects that the request did not hold", "should stay"),
    "other-language": ("other languages", "its name in other languages", "should fall"),
    "style": ("other styles", "the style that the prompt asks for", "should stay"),
}
_ACCESS_MEANINGS = {
    "text": "other words, typed by anyone",
    "embedding": "numbers put in place of words: needs the text encoder or the weights",
    "latent": "a chosen starting noise: needs the sampler",
    "weights": "further training: needs the weights",
}
_LIMIT_NOTES = (
    (
        "Erasing changes how the model reads words. It does not prove that the weights hold no trace of the concept: an"
        " attacker with access to them can search for inputs, or fine-tune, to bring it back."
    ),
    "Rates are the judge's word on a sample of prompts; each stands with its count and 95 % interval.",
)


def limit_notes(findings: Sequence[Finding], meaning: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """What the rates do not say; of the prompt groups, those that no edit was asked about."""
    asked = {check.group for finding in findings for check in finding.answered_trial.checks}
    left_out = [meaning[group][0] for group in PROMPT_GROUPS if group not in asked]
    named = [f"Groups of prompts that were not asked: {', '.join(left_out)}."] if left_out else []
    return [*_LIMIT_NOTES, *named, "Long prompts and pictures as input were not tried."]


def write_report_page(report: Report, pictures: Sequence[ImagePairs], folder: Path) -> None:
    """`report.html`; `pictures[i]` are those of the i-th trial, before and after by prompt."""
    single = len(report.findings) == 1
    sections = [
        {
            "name": finding.answered_trial.trial.label,
            "concepts": ", ".join(finding.answered_trial.trial.concepts),
            "grid": _grid(finding, sides, _IMAGES_PER_GROUP if single else _IMAGES_PER_TRIAL),
            "rows": group_rows(finding),
            "data": trial_data(finding),
            "trust": judge_calibration([finding]),
            "curves": [
                success_curve_svg(row.curve, row.ceiling.value if row.ceiling else None)
                for row in finding.attack_results
            ],
        }
        for finding, sides in zip(report.findings, pictures, strict=True)
    ]
    arms = {label: pooled_group_rates(group) for label, group in group_by_label(report.findings).items()}
    context = {
        "report": report,
        "base": origin_of_finding(report.findings[0]).base if report.findings else "the model; no edit is made yet",
        "data": report.data(),
        "run": report.circumstances,
        "sections": sections,
        "single": single,
        "pooled": arms,
        "chart": trade_off_points(arms) if not single and report.judged else "",
        "meaning": {**_GROUP_MEANINGS, **report.suite.meaning},
        "rungs": _ACCESS_MEANINGS,
        "limits": limit_notes(report.findings, {**_GROUP_MEANINGS, **report.suite.meaning}),
    }
    (folder / "report.html").write_text(_environment().get_template("report.html").render(context), encoding="utf-8")


def write_tables(findings: Sequence[Finding], folder: Path) -> None:
    """`results.md` and, beside it, efficacy against specificity as `results.svg`; `attacks.md` where there were
    attacks.
    """
    arms = {label: pooled_group_rates(group) for label, group in group_by_label(findings).items()}
    (folder / "results.md").write_text(
        f"{results_table(findings)}\n{change_table(findings)}{_trust(findings)}", encoding="utf-8"
    )
    (folder / "results.svg").write_text(trade_off_points(arms), encoding="utf-8")
    if any(finding.attack_results for finding in findings):
        (folder / "attacks.md").write_text(f"{attacks_table(findings)}{_trust(findings)}", encoding="utf-8")


def _trust(findings: Sequence[Finding]) -> str:
    """How far the judge can be trusted, as a paragraph."""
    found = judge_calibration(findings)
    return f"\n{found}\n" if found else ""


def write_card(report: Report, folder: Path) -> None:
    """`README.md`: the model card of a single edit, with the Hub's metadata."""
    finding = report.findings[0]
    context = {
        "report": report,
        "edit": origin_of_finding(finding),
        "edit_data": trial_data(finding)["edit"],
        "weights": len(finding.answered_trial.trial.edit.names),
        "rows": group_rows(finding),
        "judge": report.data()["judge"],
        "trust": judge_calibration([finding]),
        "meaning": {**_GROUP_MEANINGS, **report.suite.meaning},
        "figures": [figure for figure in finding.figures if figure.interval],
        "limits": limit_notes([finding], {**_GROUP_MEANINGS, **report.suite.meaning}),
        "embedded": embedded_world(finding.answered_trial.trial.subject.model) is not None,
    }
    (folder / "README.md").write_text(_environment().get_template("card.md").render(context), encoding="utf-8")


def write_samples(finding: Finding, pictures: ImagePairs, folder: Path) -> None:
    """Every picture, before and after, as PNG in `samples/`."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    groups = {check.prompt: check.group for check in reversed(finding.answered_trial.checks)}
    for number, (prompt, sides) in enumerate(pictures.items()):
        for name, picture in zip(("before", "after"), sides, strict=True):
            to_image(picture).save(samples / f"{number:03d}-{groups[prompt]}-{name}.png")


def _grid(finding: Finding, pictures: ImagePairs, shown: int) -> list[dict[str, Any]]:
    """Group by group: before, after, and the judge's word under each. Styles are drawn on the far objects' pictures."""
    answers = {answer.check: answer for answer in finding.answered_trial.answers}
    checks = finding.answered_trial.checks
    made = []
    for group in PROMPT_GROUPS:
        members = [check for check in checks if check.group == group and check.prompt in pictures][:shown]
        if members and not (group == "style" and any(check.group == "far" for check in checks)):
            cells = [
                (check.prompt.text, *map(data_uri, pictures[check.prompt]), answers.get(check)) for check in members
            ]
            made.append(
                {
                    "group": group,
                    "cells": [dict(zip(("text", "before", "after", "answer"), cell, strict=True)) for cell in cells],
                }
            )
    return made


def trade_off_points(arms: Mapping[str, Sequence[GroupRow]]) -> str:
    """Target gone against far objects kept: the unedited model, and one dot a method."""
    dots: list[ScatterPoint] = []
    for label, found in arms.items():
        by_group = {row.group: row for row in found}
        if {"direct", "far"} <= set(by_group):
            far, direct = by_group["far"].after, by_group["direct"].after
            if not dots:
                shown, kept = by_group["direct"].before, by_group["far"].before
                dots.append(
                    ScatterPoint(
                        "unedited", (kept.value, kept.low, kept.high), (1 - shown.value, 1 - shown.high, 1 - shown.low)
                    )
                )
            dots.append(
                ScatterPoint(label, (far.value, far.low, far.high), (1 - direct.value, 1 - direct.high, 1 - direct.low))
            )
    return scatter_svg(dots, "far objects still drawn", "target gone")


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("unconcept.evaluation.trials", "templates"),
        autoescape=select_autoescape(("html",)),
        trim_blocks=False,
    )
    pages.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pages.filters["points"] = lambda value: f"{100 * value:+.1f}"
    return pages
