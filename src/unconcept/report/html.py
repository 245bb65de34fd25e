"""Writes the report as one self-contained HTML page, pictures first, and the model card of a single edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..prompts.sets import GROUP_NAMES, PROMPT_GROUPS, PromptGroup
from .data import GroupData, JudgeData, ReportData, TrialData
from .data_types import RateData
from .images import ImagePair, pair_cell
from .ladder_svg import ladder_svg
from .markdown import DETECTABLE_MEANING
from .page_templates import html_templates, markdown_templates
from .svg import ScatterPoint, scatter_svg, success_curve_svg
from .verdict import verdict

GroupMeaning = tuple[str, str, str]  # title of a prompt group, what its prompts ask for, what should happen to its rate
_EXPECTED: Mapping[PromptGroup, tuple[str, str]] = {
    "direct": ("the concept by its own name", "should fall"),
    "synonym": ("synonyms of it that were not part of the request", "should fall"),
    "paraphrase": ("whole sentences about it in other words", "should fall"),
    "indirect": ("wordings that do not name it", "should fall"),
    "co-occurring": ("another object drawn beside it", "should stay"),
    "near": ("its nearest neighbours that were not part of the request", "should stay"),
    "far": ("unrelated objects that were not part of the request", "should stay"),
    "other-language": ("its name in other languages", "should fall"),
    "style": ("the style that the prompt asks for", "should stay"),
    "background": ("the background of other objects", "should stay"),
    "count": ("how many other objects the prompt asks for", "should stay"),
    "order": ("which of two other objects is on the left", "should stay"),
}
GROUP_MEANINGS: Mapping[str, GroupMeaning] = {group: (GROUP_NAMES[group], *said) for group, said in _EXPECTED.items()}
_ACCESS_MEANINGS = {
    "text": "other words, typed by anyone",
    "embedding": "embeddings in place of words: needs the text encoder or the weights",
    "latent": "a chosen starting noise: needs the sampler",
    "picture": "a picture to start from: needs image-to-image or the sampler",
    "weights": "further training: needs the weights",
}
_LIMIT_NOTES = (
    (
        "Erasing changes how the model reads words. It does not prove that the weights hold no trace of the concept: an"
        " attacker with access to them can search for inputs, or fine-tune, to bring it back."
    ),
    "The rates come from a judge on a sample of prompts; each has its count and its 95 % interval.",
)


@dataclass(frozen=True)
class ReportSection:
    """The section of the page about one edit."""

    trial: TrialData
    images: Mapping[PromptGroup, Sequence[ImagePair]]
    calibration: str
    """How accurate the judge is, as a sentence; empty if it was not measured."""


@dataclass(frozen=True)
class ReportPage:
    """The content of a page or a card."""

    title: str
    action: str
    """The action with its preposition: "erased from" or "debiased in"."""
    report: ReportData
    run: Mapping[str, Any]
    """Device, dtype, seconds."""
    sections: Sequence[ReportSection]
    pooled: Mapping[str, Mapping[PromptGroup, GroupData]]
    """Rates over all edits of one label."""
    meaning: Mapping[str, GroupMeaning]
    limits: Sequence[str]


def limit_notes(asked: set[str], meaning: Mapping[str, GroupMeaning]) -> list[str]:
    """List the limits of a report, with the prompt groups that no edit was tested on."""
    left_out = [meaning[group][0] for group in PROMPT_GROUPS if group not in asked]
    named = [f"Groups of prompts that were not tested: {', '.join(left_out)}."] if left_out else []
    return [*_LIMIT_NOTES, *named, "Long prompts and images as input were not tested."]


def write_report_page(page: ReportPage, path: Path) -> None:
    """Write the HTML page as one file that needs no other."""
    single = len(page.sections) == 1
    context = {
        "page": page,
        "report": page.report,
        "base": page.sections[0].trial.edit.base if page.sections else "the model; no edit is made yet",
        "run": page.run,
        "sections": [_section(section, page.meaning, page.report.judge) for section in page.sections],
        "single": single,
        "pooled": page.pooled,
        "summary": method_rates(page.pooled),
        "chart": "" if single or not any(page.pooled.values()) else trade_off_svg(page.pooled),
        "meaning": page.meaning,
        "detectable": DETECTABLE_MEANING,
        "rungs": _ACCESS_MEANINGS,
    }
    template = html_templates("unconcept.report").get_template("report.html")
    path.write_text(template.render(context), encoding="utf-8")


def write_card(page: ReportPage, weights: int, is_bundled: bool, path: Path) -> None:
    """Write the model card of a single edit, with metadata for the Hugging Face Hub.

    `weights`: number of matrices that the edit changes; `is_bundled`: whether the base comes with the package.
    """
    (section,) = page.sections
    context = {
        "page": page,
        "report": page.report,
        "edit": section.trial.edit,
        "weights": weights,
        "rows": section.trial.groups,
        "trust": section.calibration,
        "verdict": verdict(section.trial, page.meaning, page.report.judge),
        "figures": [figure for figure in section.trial.figures if figure.interval],
        "meaning": page.meaning,
        "detectable": DETECTABLE_MEANING,
        "is_bundled": is_bundled,
    }
    template = markdown_templates("unconcept.report").get_template("card.md")
    path.write_text(template.render(context), encoding="utf-8")


def seed_range(trial: TrialData) -> str:
    """The seeds of a trial's pictures, from the first to the last; empty without pictures."""
    seeds = [check.seed for check in trial.checks]
    if not seeds:
        return ""
    return str(seeds[0]) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"


def method_rates(
    pooled: Mapping[str, Mapping[PromptGroup, GroupData]],
) -> list[tuple[str, dict[PromptGroup, RateData | None]]]:
    """Rates of each label by prompt group, the unedited model first; None where a label was not asked."""
    named: set[PromptGroup] = set().union(*pooled.values())
    asked = [group for group in PROMPT_GROUPS if group in named]
    before: dict[PromptGroup, RateData | None] = dict.fromkeys(asked)
    for groups in pooled.values():
        before |= {group: row.before for group, row in groups.items() if before[group] is None}
    lines = [("unedited", before)]
    for label, groups in pooled.items():
        lines.append((label, {group: groups[group].after if group in groups else None for group in asked}))
    return lines


def trade_off_svg(pooled: Mapping[str, Mapping[PromptGroup, GroupData]]) -> str:
    """Plot "target not drawn" against "far objects kept": a dot for the unedited model and one for each label."""
    dots: list[ScatterPoint] = []
    for label, groups in pooled.items():
        if "direct" in groups and "far" in groups:
            far, direct = groups["far"], groups["direct"]
            sides = [("unedited", far.before, direct.before)] * (not dots) + [(label, far.after, direct.after)]
            dots += [
                ScatterPoint(name, (kept.value, kept.low, kept.high), (1 - shown.value, 1 - shown.high, 1 - shown.low))
                for name, kept, shown in sides
            ]
    return scatter_svg(dots, "far objects still drawn", "target not drawn")


def _section(section: ReportSection, meaning: Mapping[str, GroupMeaning], judge: JudgeData | None) -> dict[str, Any]:
    trial = section.trial
    return {
        "name": trial.label,
        "concepts": ", ".join(trial.concepts),
        "verdict": verdict(trial, meaning, judge),
        "seeds": seed_range(trial),
        "images": {group: list(map(pair_cell, pairs)) for group, pairs in section.images.items() if pairs},
        "data": trial,
        "cost": trial.cost.model_dump(),
        "trust": section.calibration,
        "ladder": "" if trial.ladder is None else ladder_svg(trial.ladder),
        "curves": [success_curve_svg(row.curve, row.ceiling.value if row.ceiling else None) for row in trial.attacks],
    }
