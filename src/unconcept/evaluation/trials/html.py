"""The report as one self-contained HTML page, pictures first, and the model card of a single edit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from torch import Tensor

from ...models.loading import MOJI
from ...prompts.checks import Prompt
from ...prompts.sets import GROUPS
from ...report.images import data_uri, to_image
from ...report.svg import Dot, curve, scatter
from ..judging.rates import Row
from .bench import Finding
from .markdown import attacks_table, by_label, change_table, pooled, results_table
from .report import Report, calibration, origin, rows, trial_data

Sides = Mapping[Prompt, tuple[Tensor, Tensor]]
SHOWN, SHOWN_OF_MANY = 12, 4  # pictures of a group in the grid, of one trial and of each of several
MEANING = {
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
RUNG_MEANING = {
    "text": "other words, typed by anyone",
    "embedding": "numbers put in place of words: needs the text encoder or the weights",
    "latent": "a chosen starting noise: needs the sampler",
    "weights": "further training: needs the weights",
}
LIMITS = (
    "Erasing changes how the model reads words. It does not prove that the weights hold no trace of the concept: an attacker "
    "with access to them can search for inputs, or fine-tune, to bring it back.",
    "Rates are the judge's word on a sample of prompts; each stands with its count and 95 % interval.",
)


def limits(findings: Sequence[Finding], meaning: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """What the rates do not say; of the prompt groups, those that no edit was asked about."""
    asked = {check.group for finding in findings for check in finding.answered.checks}
    left_out = [meaning[group][0] for group in GROUPS if group not in asked]
    named = [f"Groups of prompts that were not asked: {', '.join(left_out)}."] if left_out else []
    return [*LIMITS, *named, "Long prompts and pictures as input were not tried."]


def write_page(report: Report, pictures: Sequence[Sides], folder: Path) -> None:
    """`report.html`; `pictures[i]` are those of the i-th trial, before and after by prompt."""
    single = len(report.findings) == 1
    sections = [
        {
            "name": finding.answered.trial.label,
            "concepts": ", ".join(finding.answered.trial.concepts),
            "grid": _grid(finding, sides, SHOWN if single else SHOWN_OF_MANY),
            "rows": rows(finding),
            "data": trial_data(finding),
            "trust": calibration([finding]),
            "curves": [curve(row.curve, row.ceiling.value if row.ceiling else None) for row in finding.attacked],
        }
        for finding, sides in zip(report.findings, pictures, strict=True)
    ]
    arms = {label: pooled(group) for label, group in by_label(report.findings).items()}
    context = {
        "report": report,
        "base": origin(report.findings[0]).base if report.findings else "the model; no edit is made yet",
        "data": report.data(),
        "run": report.circumstances,
        "sections": sections,
        "single": single,
        "pooled": arms,
        "chart": trade_off(arms) if not single and report.judged else "",
        "meaning": {**MEANING, **report.suite.meaning},
        "rungs": RUNG_MEANING,
        "limits": limits(report.findings, {**MEANING, **report.suite.meaning}),
    }
    (folder / "report.html").write_text(_environment().get_template("report.html").render(context), encoding="utf-8")


def write_tables(findings: Sequence[Finding], folder: Path) -> None:
    """`results.md` and, beside it, efficacy against specificity as `results.svg`; `attacks.md` where there were attacks."""
    arms = {label: pooled(group) for label, group in by_label(findings).items()}
    (folder / "results.md").write_text(f"{results_table(findings)}\n{change_table(findings)}{_trust(findings)}", encoding="utf-8")
    (folder / "results.svg").write_text(trade_off(arms), encoding="utf-8")
    if any(finding.attacked for finding in findings):
        (folder / "attacks.md").write_text(f"{attacks_table(findings)}{_trust(findings)}", encoding="utf-8")


def _trust(findings: Sequence[Finding]) -> str:
    """How far the judge can be trusted, as a paragraph."""
    found = calibration(findings)
    return f"\n{found}\n" if found else ""


def write_card(report: Report, folder: Path) -> None:
    """`README.md`: the model card of a single edit, with the Hub's metadata."""
    finding = report.findings[0]
    context = {
        "report": report,
        "edit": origin(finding),
        "edit_data": trial_data(finding)["edit"],
        "weights": len(finding.answered.trial.edit.names),
        "rows": rows(finding),
        "judge": report.data()["judge"],
        "trust": calibration([finding]),
        "meaning": {**MEANING, **report.suite.meaning},
        "figures": [figure for figure in finding.figures if figure.interval],
        "limits": limits([finding], {**MEANING, **report.suite.meaning}),
        "moji": finding.answered.trial.subject.model == MOJI,
    }
    (folder / "README.md").write_text(_environment().get_template("card.md").render(context), encoding="utf-8")


def write_samples(finding: Finding, pictures: Sides, folder: Path) -> None:
    """Every picture, before and after, as PNG in `samples/`."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    groups = {check.prompt: check.group for check in reversed(finding.answered.checks)}
    for number, (prompt, sides) in enumerate(pictures.items()):
        for name, picture in zip(("before", "after"), sides, strict=True):
            to_image(picture).save(samples / f"{number:03d}-{groups[prompt]}-{name}.png")


def _grid(finding: Finding, pictures: Sides, shown: int) -> list[dict[str, Any]]:
    """Group by group: before, after, and the judge's word under each. Styles are drawn on the far objects' pictures."""
    answers = {answer.check: answer for answer in finding.answered.answers}
    checks = finding.answered.checks
    made = []
    for group in GROUPS:
        members = [check for check in checks if check.group == group and check.prompt in pictures][:shown]
        if members and not (group == "style" and any(check.group == "far" for check in checks)):
            cells = [(check.prompt.text, *map(data_uri, pictures[check.prompt]), answers.get(check)) for check in members]
            made.append({"group": group, "cells": [dict(zip(("text", "before", "after", "answer"), cell, strict=True)) for cell in cells]})
    return made


def trade_off(arms: Mapping[str, Sequence[Row]]) -> str:
    """Target gone against far objects kept: the unedited model, and one dot a method."""
    dots: list[Dot] = []
    for label, found in arms.items():
        by_group = {row.group: row for row in found}
        if {"direct", "far"} <= set(by_group):
            far, direct = by_group["far"].after, by_group["direct"].after
            if not dots:
                shown, kept = by_group["direct"].before, by_group["far"].before
                dots.append(Dot("unedited", (kept.value, kept.low, kept.high), (1 - shown.value, 1 - shown.high, 1 - shown.low)))
            dots.append(Dot(label, (far.value, far.low, far.high), (1 - direct.value, 1 - direct.high, 1 - direct.low)))
    return scatter(dots, "far objects still drawn", "target gone")


def _environment() -> Environment:
    pages = Environment(loader=PackageLoader("unconcept.evaluation.trials", "templates"), autoescape=select_autoescape(("html",)), trim_blocks=False)
    pages.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pages.filters["points"] = lambda value: f"{100 * value:+.1f}"
    return pages
