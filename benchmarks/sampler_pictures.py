"""What samplers and guidance draw, without an edit: `python -m benchmarks.sampler_pictures --ways euler/20/4,amo/20/4`.

A way is SAMPLER/STEPS/GUIDANCE, or with `a-star` behind it also steered so. On `tune` concepts and tuning seeds, or
with `--report` on `report` concepts and their seeds. What was drawn is kept, so the same command goes on after being
stopped.
"""

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unconcept.core.output_folder import atomic_file
from unconcept.metrics.intervals import wilson
from unconcept.prompts.checks import Check, GroupSizes
from unconcept.worlds.scenes import one_phrase, pair_phrase, scene_caption, scene_words
from unconcept.worlds.table import ConceptEntry, concept_table

if TYPE_CHECKING:
    from unconcept.edits import Edit
    from unconcept.models import ModelView

OUT = Path("out/samplers")
LINES = ("object", "style", "background", "two objects", "both objects")
_AT_ONCE = 20


@dataclass(frozen=True)
class DrawingWay:
    """How pictures are drawn."""

    sampler: str
    steps: int
    guidance: float
    steering: str = ""
    """A method that keeps concepts in their pictures, with its recipe; "" for none."""

    @classmethod
    def parse(cls, text: str) -> "DrawingWay":
        """From SAMPLER/STEPS/GUIDANCE, or SAMPLER/STEPS/GUIDANCE/METHOD."""
        sampler, steps, guidance, *steering = text.split("/")
        return cls(sampler, int(steps), float(guidance), *steering)

    def __str__(self) -> str:
        return f"{self.sampler}/{self.steps}/{self.guidance:g}" + (f"/{self.steering}" if self.steering else "")


def asked_checks(limit: int, report: bool) -> dict[str, list[Check]]:
    """The checks of each text: a single object and its style, one before a background, and two objects."""
    split, sizes = ("report" if report else "tune"), GroupSizes(tuning=not report)
    objects = [entry for entry in concept_table().objects if entry.split == split and not entry.variants]
    rng = random.Random(11)
    rng.shuffle(objects)
    found: dict[str, list[Check]] = {}
    for i in range(limit):
        one, other = objects[i % len(objects)], objects[(i + 1) % len(objects)]
        style = rng.choice(_trained_styles(one))
        asked = sizes.prompt(scene_caption(one_phrase(one.name), style), i)
        found[asked.text] = [
            Check(asked, "direct", one.name, "object", one.labels),
            Check(asked, "style", style, "style", (style,)),
        ]
        behind = rng.choice([each.name for each in scene_words().backgrounds if one.name not in each.unseen])
        asked = sizes.prompt(scene_caption(one_phrase(one.name), None, behind), i)
        found[asked.text] = [Check(asked, "background", one.name, "background", (behind,))]
        asked = sizes.prompt(scene_caption(pair_phrase(one.name, other.name)), i)
        found[asked.text] = [
            Check(asked, "co-occurring", one.name, "left", one.labels),
            Check(asked, "co-occurring", other.name, "right", other.labels),
        ]
    return found


def _trained_styles(entry: ConceptEntry) -> list[str]:
    return [style for style in entry.styles if style not in entry.unseen]


def draw_and_judge(model: "ModelView", way: DrawingWay, asked: Mapping[str, Sequence[Check]]) -> dict[str, list[bool]]:
    """For each text, which of its checks are met."""
    from unconcept.evaluation.sampling import DrawSpec, draw_prompts
    from unconcept.scorers.moji_judge import JudgeScore

    judge, spec = JudgeScore(), DrawSpec(way.steps, way.guidance, _AT_ONCE, way.sampler)
    with ExitStack() as stack:
        if way.steering:
            names = tuple(entry.name for entry in concept_table().objects)
            stack.enter_context(steering(model, way.steering, names).applied(model))
        pictures = draw_prompts(model, [checks[0].prompt for checks in asked.values()], spec)
    rows = judge.score(pictures, ["scene"] * len(pictures))
    return {
        text: [judge.answer(row, check.by) in check.labels for check in checks]
        for (text, checks), row in zip(asked.items(), rows, strict=True)
    }


def steering(model: "ModelView", name: str, kept: tuple[str, ...]) -> "Edit":
    """The edit of a method that keeps these concepts in pictures, with its recipe."""
    from unconcept.core.request import Request
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.methods import methods

    settings = variant_of_method(name, model.name).settings
    return methods[name].settings(**settings).erase(model, Request(kept, ("",) * len(kept), ()))


def measure(model: "ModelView", way: DrawingWay, asked: Mapping[str, list[Check]], file: Path, until: float) -> bool:
    """Draw what the file lacks, piece by piece, until a time; whether all is there."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    own = kept.setdefault(str(way), {})
    left = [text for text in asked if text not in own]
    for start in range(0, len(left), _AT_ONCE):
        if time.monotonic() > until:
            return False
        own |= draw_and_judge(model, way, {text: asked[text] for text in left[start : start + _AT_ONCE]})
        with atomic_file(file, "give another --out") as part:
            part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return True


def table(
    kept: Mapping[str, Mapping[str, list[bool]]], ways: Sequence[DrawingWay], asked: Mapping[str, list[Check]]
) -> str:
    """A row for each way, a column for each line."""
    from unconcept.report.markdown import markdown_table

    lines = [["sampler/steps/guidance", *LINES], ["---"] * (1 + len(LINES))]
    for way in ways:
        met: dict[str, list[bool]] = {line: [] for line in LINES}
        for text, checks in asked.items():
            answers = kept[str(way)][text]
            for check, answer in zip(checks, answers, strict=True):
                met["two objects" if check.by in ("left", "right") else str(check.by)].append(answer)
            if len(checks) == 2 and checks[0].by == "left":
                met["both objects"].append(all(answers))
        lines.append(
            [str(way), *(f"{wilson(sum(one), len(one))}, n={len(one)}" if one else "" for one in met.values())]
        )
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="moji-flow")
    parser.add_argument("--ways", required=True, help="separated by commas")
    parser.add_argument("--limit", type=int, default=60, help="captions of each kind")
    parser.add_argument("--report", action="store_true", help="report concepts and seeds, which choose nothing")
    parser.add_argument("--pairs", action="store_true", help="captions of two objects alone")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--max-minutes", type=float, default=1e6)
    args = parser.parse_args()
    from unconcept.models import open_model

    asked = asked_checks(args.limit, args.report)
    if args.pairs:
        asked = {text: checks for text, checks in asked.items() if checks[0].by == "left"}
    ways = [DrawingWay.parse(text) for text in args.ways.split(",")]
    model, until = open_model(args.model, "cpu", "float32"), time.monotonic() + 60 * args.max_minutes
    file = args.out / f"{args.model}-{'report' if args.report else 'tune'}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    for way in ways:
        if not measure(model, way, asked, file, until):
            raise SystemExit(f"stopped after {args.max_minutes} minutes; the same command goes on")
    print(table(json.loads(file.read_text(encoding="utf-8")), ways, asked))


if __name__ == "__main__":
    main()
