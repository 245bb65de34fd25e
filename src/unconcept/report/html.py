"""The report as one self-contained HTML page, pictures first, and the model card of a single edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from torch import Tensor

from ..prompts.sets import PROMPT_GROUPS, PromptGroup
from .data import GroupData, ReportData, TrialData
from .images import data_uri
from .svg import ScatterPoint, scatter_svg, success_curve_svg

GroupMeaning = tuple[str, str, str]  # name, what is asked, what should become of it
GROUP_MEANINGS: Mapping[str, GroupMeaning] = {
    "direct": ("target", "the concept by its own name", "should fall"),
    "synonym": ("synonyms", "other words for it that the request did not hold", "should fall"),
    "paraphrase": ("paraphrases", "whole sentences about it in other words", "should fall"),
    "indirect": ("indirect", "wordings that do not name it", "should fall"),
    "co-occurring": ("co-occurring", "another object drawn beside it", "should stay"),
    "near": ("near", "its nearest neighbours that the request did not hold", "should stay"),
    "far": ("far", "unrelated objects that the request did not hold", "should stay"),
    "other-language": ("other languages", "its name in other languages", "should fall"),
    "style": ("styles", "the style that the prompt asks for", "should stay"),
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


@dataclass(frozen=True)
class ImagePair:
    """A prompt's pictures (3, h, w) before and after; words are the judge's, empty where nobody judged."""

    text: str
    before: Tensor
    after: Tensor
    words: tuple[str, str] = ("", "")
    shown: tuple[bool, bool] = (False, False)
    """Whether the words are what was asked."""


@dataclass(frozen=True)
class ReportSection:
    """One edit."""

    trial: TrialData
    images: Mapping[PromptGroup, Sequence[ImagePair]]
    calibration: str
    """How far the judge can be trusted, as a sentence; empty where it was not asked."""


@dataclass(frozen=True)
class ReportPage:
    """All that a page or a card says."""

    title: str
    action: str
    """What was done to the concepts: "erased from" or "debiased in"."""
    report: ReportData
    run: Mapping[str, Any]
    """Device, dtype, seconds."""
    sections: Sequence[ReportSection]
    pooled: Mapping[str, Mapping[PromptGroup, GroupData]]
    """Rates over all edits of one label."""
    meaning: Mapping[str, GroupMeaning]
    limits: Sequence[str]


def limit_notes(asked: set[str], meaning: Mapping[str, GroupMeaning]) -> list[str]:
    """What the rates do not say; of the prompt groups, those that no edit was asked about."""
    left_out = [meaning[group][0] for group in PROMPT_GROUPS if group not in asked]
    named = [f"Groups of prompts that were not asked: {', '.join(left_out)}."] if left_out else []
    return [*_LIMIT_NOTES, *named, "Long prompts and pictures as input were not tried."]


def write_report_page(page: ReportPage, path: Path) -> None:
    """One file that needs no other."""
    single = len(page.sections) == 1
    context = {
        "page": page,
        "report": page.report,
        "base": page.sections[0].trial.edit.base if page.sections else "the model; no edit is made yet",
        "run": page.run,
        "sections": [_section(section) for section in page.sections],
        "single": single,
        "pooled": page.pooled,
        "chart": "" if single or not any(page.pooled.values()) else trade_off_svg(page.pooled),
        "meaning": page.meaning,
        "rungs": _ACCESS_MEANINGS,
    }
    path.write_text(_templates().get_template("report.html").render(context), encoding="utf-8")


def write_card(page: ReportPage, weights: int, is_bundled: bool, path: Path) -> None:
    """The model card of a single edit, with the Hub's metadata. `weights`: how many matrices the edit changes;
    `is_bundled`: the base comes with the package.
    """
    (section,) = page.sections
    context = {
        "page": page,
        "report": page.report,
        "edit": section.trial.edit,
        "weights": weights,
        "rows": section.trial.groups,
        "trust": section.calibration,
        "figures": [figure for figure in section.trial.figures if figure.interval],
        "meaning": page.meaning,
        "is_bundled": is_bundled,
    }
    path.write_text(_templates().get_template("card.md").render(context), encoding="utf-8")


def trade_off_svg(pooled: Mapping[str, Mapping[PromptGroup, GroupData]]) -> str:
    """Target gone against far objects kept: the unedited model, and one dot a label."""
    dots: list[ScatterPoint] = []
    for label, groups in pooled.items():
        if "direct" in groups and "far" in groups:
            far, direct = groups["far"], groups["direct"]
            sides = [("unedited", far.before, direct.before)] * (not dots) + [(label, far.after, direct.after)]
            dots += [
                ScatterPoint(name, (kept.value, kept.low, kept.high), (1 - shown.value, 1 - shown.high, 1 - shown.low))
                for name, kept, shown in sides
            ]
    return scatter_svg(dots, "far objects still drawn", "target gone")


def _section(section: ReportSection) -> dict[str, Any]:
    trial = section.trial
    return {
        "name": trial.label,
        "concepts": ", ".join(trial.concepts),
        "images": {group: list(map(_image_cell, pairs)) for group, pairs in section.images.items() if pairs},
        "data": trial,
        "cost": trial.cost.model_dump(),
        "trust": section.calibration,
        "curves": [success_curve_svg(row.curve, row.ceiling.value if row.ceiling else None) for row in trial.attacks],
    }


def _image_cell(pair: ImagePair) -> dict[str, Any]:
    sides = zip(("before", "after"), (pair.before, pair.after), pair.words, pair.shown, strict=True)
    return {
        "text": pair.text,
        "sides": [
            {"name": name, "uri": data_uri(picture), "word": word, "is_shown": shown}
            for name, picture, word, shown in sides
        ],
    }


@cache
def _templates() -> Environment:
    """A name that a template gets wrong is an error, not an empty text."""
    pages = Environment(
        loader=PackageLoader("unconcept.report"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
    )
    pages.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pages.filters["points"] = lambda value: f"{100 * value:+.1f}"
    return pages
