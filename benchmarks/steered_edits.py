"""What erasing one of two objects costs the other, with A-STAR beside the edit and without:
`python -m benchmarks.steered_edits --methods uce,esd`.

Captions of two `report` objects from the same noise: unedited, after the left one was erased by a method under its
recipe, and with A-STAR in force for all objects but the erased. What was drawn is kept, so the same command goes on
after being stopped.
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.recipe_edits import recipe_edit
from benchmarks.sampler_pictures import OUT, asked_checks, steering
from unconcept.cli.console import EXIT_FAILED, exit_codes, quiet_libraries
from unconcept.core.output_folder import atomic_file
from unconcept.metrics.intervals import wilson
from unconcept.prompts.checks import Check
from unconcept.worlds.registry import DEFAULT_MODEL
from unconcept.worlds.table import concept_table

if TYPE_CHECKING:
    from unconcept.models import ModelView

STEERING = "a-star"
Pair = tuple[Check, Check]  # of the object that is erased, and of the one beside it


def asked_pairs(limit: int) -> list[Pair]:
    """Captions of two `report` objects of which the left one can be erased."""
    found = [tuple(checks) for checks in asked_checks(limit, report=True).values() if checks[0].by == "left"]
    return [(left, right) for left, right in found if concept_table()[left.concept].erasable]


def is_seen(model: "ModelView", pair: Pair, method: str, steered: bool) -> list[bool]:
    """Whether the picture of a pair shows the left object, and the right one; "" as method erases nothing."""
    from unconcept.evaluation.sampling import draw_prompts, spec_for
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.scorers.moji_judge import JudgeScore

    left, judge = pair[0], JudgeScore()
    others = tuple(entry.name for entry in concept_table().objects if entry.name != left.concept or not method)
    with ExitStack() as stack:
        if method:
            edit = recipe_edit(model, variant_of_method(method, model.name), left.concept, model.name)
            stack.enter_context(edit.applied(model))
        if steered:
            stack.enter_context(steering(model, STEERING, others).applied(model))
        pictures = draw_prompts(model, [left.prompt], spec_for(model.name))
    (row,) = judge.score(pictures, ["scene"])
    return [judge.answer(row, check.by) in check.labels for check in pair]


def table(kept: dict[str, dict[str, list[bool]]], pairs: Sequence[Pair]) -> str:
    """A row for each method, without steering and with it: how many pictures show the left and the right object."""
    from unconcept.report.markdown import markdown_table

    lines = [["erased by", "steered by", "shows the left object", "shows the right one"], ["---"] * 4]
    for key, own in kept.items():
        method, steered = key.split("/")
        if all(left.prompt.text in own for left, _ in pairs):
            answers = [own[left.prompt.text] for left, _ in pairs]
            shares = (str(wilson(sum(one[side] for one in answers), len(answers))) for side in (0, 1))
            lines.append([method or "-", steered or "-", *shares])
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="uce", help="separated by commas")
    parser.add_argument("--limit", type=int, default=60, help="captions")
    parser.add_argument("--out", type=Path, default=OUT / "steered-edits.json")
    parser.add_argument("--max-minutes", type=float, default=1e6)
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.models import open_model

    pairs, until = asked_pairs(args.limit), time.monotonic() + 60 * args.max_minutes
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with exit_codes():
        model = open_model(DEFAULT_MODEL, "cpu", "float32")
        for method in ("", *args.methods.split(",")):
            for steered in (False, True):
                own = kept.setdefault(f"{method}/{STEERING if steered else ''}", {})
                for pair in pairs:
                    text = pair[0].prompt.text
                    if text in own:
                        continue
                    if time.monotonic() > until:
                        print(f"stopped after {args.max_minutes} minutes; the same command goes on")
                        raise SystemExit(EXIT_FAILED)
                    own[text] = is_seen(model, pair, method, steered)
                    with atomic_file(args.out, "give another --out") as part:
                        part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print(table(kept, pairs), f"n = {len(pairs)} a row")


if __name__ == "__main__":
    main()
