"""Measure few steps: `python -m world.few_steps [--teacher moji] [--model FOLDER] [--limit N] [--json FILE]`.

The teacher with two samplers at 1, 2, 4, 8 and 20 steps, and a student at the numbers of steps of its record: right
objects, styles, backgrounds, counts, and how far the pictures of ten seeds lie apart, over that of the teacher in 20
steps. Seeds are tuning seeds unless `--report` is given.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from unconcept.metrics.intervals import Rate
from unconcept.models import ModelView, open_model
from unconcept.worlds.registry import JUDGE_WEIGHTS
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .chance import pixel_distance
from .drawing import noise
from .questions import Question, questions, seed_of
from .score import STEPS, Jury, load_judge, rates, varied_captions, verdicts

LINES = ("single", "background", "count")
COLUMNS = {
    "object": "single: object",
    "style": "single: style",
    "background": "background: background",
    "count": "count: count",
}
SAMPLERS = ("dpm", "ddim")
GUIDANCE = 4.0
SEEDS = 10  # pictures of a caption, to measure variety by
AT_ONCE = 50


@dataclass(frozen=True)
class StepRow:
    """A row of the table."""

    name: str
    rates: dict[str, Rate]
    distance: float
    """Mean distance of two seeds of a caption, pixels in [0, 1]."""


@dataclass(frozen=True)
class Drawing:
    """A model, its sampler, steps and guidance."""

    view: ModelView
    steps: int
    guidance: float
    sampler: str | None = None

    @torch.no_grad()
    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures (n, 3, 64, 64) in [0, 1] on the CPU."""
        found = []
        for start in range(0, len(texts), AT_ONCE):
            z = noise(seeds[start : start + AT_ONCE], self.view.latent_shape)
            part = list(texts[start : start + AT_ONCE])
            found.append(self.view.sample(part, z, self.steps, self.guidance, self.sampler).float().cpu())
        return torch.cat(found)


def judged(
    drawing: Drawing, name: str, asked: list[Question], jury: Jury, varied: Sequence[str], tuning: bool
) -> StepRow:
    """One row: what is right, and how far seeds lie apart."""
    pictures = drawing.draw([q.text for q in asked], [q.seed for q in asked])
    found = rates(verdicts(asked, jury.answers("first", pictures), jury.words))
    distances = []
    for text in varied:
        seeds = [seed_of(text, 100 + i, tuning) for i in range(SEEDS)]
        distances.append(pixel_distance(drawing.draw([text] * SEEDS, seeds)))
    return StepRow(name, {name: found[line] for name, line in COLUMNS.items()}, sum(distances) / max(1, len(distances)))


def drawings(teacher: str | None, model: Path | None, device: str) -> dict[str, Drawing]:
    """What is measured, by name; the teacher's own sampler in 20 steps comes first."""
    found: dict[str, Drawing] = {}
    for source in (teacher, model and str(model)):
        if not source:
            continue
        view = open_model(source, device, "float32")
        if view.few_step is not None:
            found |= {f"student, {n} steps": Drawing(view, n, 1.0) for n in sorted(view.few_step.timesteps)}
            continue
        for sampler in SAMPLERS:
            for count in sorted(STEPS, reverse=True):
                found[f"teacher, {sampler}, {count} steps"] = Drawing(view, count, GUIDANCE, sampler)
    return found


def measure(found: dict[str, Drawing], limit: int, tuning: bool, device: str, rung: int = 3) -> list[StepRow]:
    """All rows, printed as they come, as lines of a Markdown table."""
    judge, words = load_judge(JUDGE_WEIGHTS, device)
    jury = Jury({"first": judge}, words, device)
    asked = [q for q in questions(concept_table(), scene_words(), limit, rung, tuning) if q.line in LINES]
    varied = [caption.text for caption in varied_captions(max(2, limit // 10))]
    print(f"| | {' | '.join(COLUMNS)} | distance of seeds |\n|---|{'---|' * (len(COLUMNS) + 1)}", flush=True)
    rows = []
    for name, drawing in found.items():
        row = judged(drawing, name, asked, jury, varied, tuning)
        told = " | ".join(f"{rate.value:.1%}" for rate in row.rates.values())
        print(f"| {name} | {told} | {row.distance:.3f} |", flush=True)
        rows.append(row)
    print(f"n = {limit} captions a column, {len(varied)} captions of {SEEDS} seeds", flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="an embedded model's name, or a folder")
    parser.add_argument("--model", type=Path, help="folder of a student")
    parser.add_argument("--limit", type=int, default=100, help="captions of each column")
    parser.add_argument("--report", action="store_true", help="seeds on which nothing is chosen")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows = measure(drawings(args.teacher, args.model, args.device), args.limit, not args.report, args.device)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
