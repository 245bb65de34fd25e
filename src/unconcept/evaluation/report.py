"""The report: numbers with counts and intervals as JSON, one self-contained HTML page, and the model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from torch import Tensor

from ..edits import Edit, origin_of
from ..models.open import MOJI
from ..moji.table import table
from ..scorers.moji_judge import MojiJudge
from .generate import Spec
from .judging import GROUPS, Answer, Row, calibrate, key, tabulate
from .pictures import data_uri, drop_chunks, to_image
from .prompts import Check
from .requests import Chosen

SCHEMA = 1
SHOWN = 12  # pictures of a group in the HTML grid
MEANING = {
    "direct": ("target", "the concept by its own name", "should fall"),
    "synonym": ("synonyms", "other words for it that the request did not hold", "should fall"),
    "indirect": ("indirect", "wordings that do not name it", "should fall"),
    "co-occurring": ("beside it", "another object drawn beside it", "should stay"),
    "near": ("near", "its nearest neighbours that the request did not hold", "should stay"),
    "far": ("far", "unrelated objects that the request did not hold", "should stay"),
    "style": ("other styles", "the style that the prompt asks for", "should stay"),
}
LIMITS = (
    "Erasing changes how the model reads words. It does not prove that the weights hold no trace of the concept: an attacker "
    "with access to them can search for inputs, or fine-tune, to bring it back.",
    "Rates are the judge's word on a sample of prompts; each stands with its count and 95 % interval.",
    "Prompts in other languages, long prompts and pictures as input were not tried.",
)


@dataclass(frozen=True)
class Report:
    """All that one erasure found out."""

    edit: Edit
    chosen: Chosen
    settings: Mapping[str, Any]
    checks: Sequence[Check]
    answers: Sequence[Answer]
    spec: Spec
    circumstances: Mapping[str, Any]
    recipe: str | None
    failures: tuple[str, ...]

    @property
    def rows(self) -> list[Row]:
        return tabulate(self.answers)

    @property
    def title(self) -> str:
        return ", ".join(concept.name for concept in self.chosen.concepts)

    def data(self) -> dict[str, Any]:
        """Everything as JSON; `run.json` holds what differs from run to run."""
        origin = asdict(origin_of(self.edit))
        judge = MojiJudge() if self.answers else None
        return {
            "schema": SCHEMA,
            "status": "FAILED" if self.failures else "ok",
            "failures": list(self.failures),
            "edit": {**origin, "hash": self.edit.hash, "parameters": self.edit.parameters, "weights": len(self.edit.names)},
            "reasons": self.chosen.reasons,
            "recipe": self.recipe,
            "drawing": {"steps": self.spec.steps, "guidance_scale": self.spec.guidance_scale},
            "judge": {"name": judge.name, "version": judge.version, "hash": judge.hash, "policy": "argmax"} if judge else None,
            "table_hash": table().hash if judge else None,
            "calibration": asdict(calibrate(self.answers)) if judge else None,
            "groups": {row.group: {n: asdict(r) for n, r in vars(row).items() if n != "group"} for row in self.rows},
            "not_asked": {group: "no prompts of this group" for group in GROUPS if group not in {row.group for row in self.rows}},
            "checks": [
                {
                    "text": a.check.prompt.text,
                    "seed": a.check.prompt.seed,
                    "group": a.check.group,
                    "concept": a.check.concept,
                    "before": a.before,
                    "after": a.after,
                }
                for a in self.answers
            ],
        }


def write_report(report: Report, pictures: Mapping[str, tuple[Tensor, Tensor]], folder: Path, drawn: bool) -> None:
    """Fill an output folder beside its edit. Without pictures only `run.json` is written."""
    weight = (folder / "edit.safetensors").stat().st_size
    run = {**report.circumstances, "edit_bytes": weight, "edit_hash": report.edit.hash, "failures": list(report.failures)}
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    if not drawn:
        return
    data = report.data()
    (folder / "report.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    context = {
        "report": report,
        "data": data,
        "run": run,
        "meaning": MEANING,
        "limits": LIMITS,
        "sections": _sections(report, pictures),
        "moji": origin_of(report.edit).base == MOJI,
    }
    pages = Environment(loader=PackageLoader("unconcept.evaluation", "templates"), autoescape=select_autoescape(("html",)))
    pages.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pages.filters["points"] = lambda value: f"{100 * value:+.1f}"
    for template, name in (("report.html", "report.html"), ("card.md", "README.md")):
        (folder / name).write_text(pages.get_template(template).render(context), encoding="utf-8")
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    for number, check in enumerate(_distinct(report.checks)):
        for side, name in enumerate(("before", "after")):
            to_image(pictures[key(check)][side]).save(samples / f"{number:03d}-{check.group}-{name}.png")
    drop_chunks(folder)


def _distinct(checks: Sequence[Check]) -> list[Check]:
    return list({key(check): check for check in reversed(checks)}.values())[::-1]


def _sections(report: Report, pictures: Mapping[str, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """The picture grid, group by group: before, after, and the judge's word under each."""
    judged = {id(answer.check): answer for answer in report.answers}
    sections = []
    for group in GROUPS:
        members = [check for check in report.checks if check.group == group][:SHOWN]
        if not members or (group == "style" and any(check.group == "far" for check in report.checks)):
            continue
        cells = []
        for check in members:
            before, after = pictures[key(check)]
            answer = judged.get(id(check))
            cells.append({"text": check.prompt.text, "before": data_uri(before), "after": data_uri(after), "answer": answer})
        sections.append({"group": group, "cells": cells})
    return sections
