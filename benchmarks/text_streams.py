"""Which of a flow model's texts carries a name: T5's states, CLIP's pooled text, or both:
`python -m benchmarks.text_streams`.

Each tune object is drawn with its caption and its anchor's, one for the states and one for the pooled text. Says what
an edit of the states alone, such as UCE's, can reach. What was drawn is kept, so the same command goes on.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.recipe_edits import recipe_edit
from unconcept.core.output_folder import atomic_file
from unconcept.metrics.intervals import wilson
from unconcept.prompts.checks import GroupSizes, Prompt
from unconcept.worlds.scenes import object_caption
from unconcept.worlds.table import ConceptEntry, concept_table

if TYPE_CHECKING:
    from unconcept.models import Conditioning, ModelView

EDITED = "target, erased by"
SIDES = ("target", "anchor")
Asked = tuple[ConceptEntry, ConceptEntry, Prompt]  # target, anchor, and the target's caption with its seed
MIXES = [(states, pooled) for states in SIDES for pooled in SIDES]


def asked_pairs(limit: int) -> list[Asked]:
    """Target, anchor and a tuning seed: the erasable tune objects in turn."""
    known, sizes = concept_table(), GroupSizes(tuning=True)
    own = [e for e in known.objects if e.erasable and e.split == "tune" and e.anchor and not e.variants]
    picked = [own[i % len(own)] for i in range(limit)]
    return [
        (one, known[str(one.anchor)], sizes.prompt(object_caption(one.name), i // len(own)))
        for i, one in enumerate(picked)
    ]


def what_is_seen(model: "ModelView", states: str, pooled: str, asked: Sequence[Asked]) -> list[str]:
    """For each pair, whether the picture shows the target, the anchor, nothing or something else."""
    import torch

    texts = {
        side: [object_caption({"target": one, "anchor": other}[side].name) for one, other, _ in asked] for side in SIDES
    }
    with torch.no_grad():
        given = replace(model.condition(texts[states]), pooled=model.condition(texts[pooled]).pooled)
    return _drawn(model, given, asked)


def seen_after_edit(model: "ModelView", method: str, asked: Sequence[Asked]) -> list[str]:
    """The same of target captions on both sides, each after the target was erased by a method with its recipe."""
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    found: list[str] = []
    for one in asked:
        edit = recipe_edit(model, variant_of_method(method, model.name), one[0].name, model.name)
        with edit.applied(model):
            found += what_is_seen(model, "target", "target", [one])
    return found


def _drawn(model: "ModelView", given: "Conditioning", asked: Sequence[Asked]) -> list[str]:
    import torch

    from unconcept.evaluation.sampling import initial_noise, spec_for
    from unconcept.scorers.moji_judge import JudgeScore

    judge, spec = JudgeScore(), spec_for(model.name)
    noise = torch.stack([initial_noise(prompt.seed, model.latent_shape) for *_, prompt in asked])
    pictures = model.sample(given, noise, spec.steps, spec.guidance_scale, spec.sampler)
    rows, found = judge.score(pictures, ["scene"] * len(pictures)), []
    for row, (one, other, _) in zip(rows, asked, strict=True):
        word = judge.answer(row, "object")
        shown = {**dict.fromkeys(other.labels, "anchor"), **dict.fromkeys(one.labels, "target"), "nothing": "nothing"}
        found.append(shown.get(word, "else"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="moji-flow")
    parser.add_argument("--limit", type=int, default=60, help="pictures of each mix")
    parser.add_argument("--methods", default="", help="also after erasing each target; separated by commas")
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out/text-streams.json"))
    parser.add_argument("--max-minutes", type=float, default=1e6)
    args = parser.parse_args()
    from unconcept.models import open_model
    from unconcept.report.markdown import markdown_table

    asked, until = asked_pairs(args.limit), time.monotonic() + 60 * args.max_minutes
    edited = [(EDITED, name) for name in args.methods.split(",") if name]
    model = open_model(args.model, "cpu", "float32")
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    for start in range(0, args.limit, args.at_once):
        for states, pooled in [*MIXES, *edited]:
            key = f"{states}/{pooled}/{start}"
            if key in kept:
                continue
            if time.monotonic() > until:
                raise SystemExit(f"stopped after {args.max_minutes} minutes; the same command goes on")
            some = asked[start : start + args.at_once]
            kept[key] = (
                seen_after_edit(model, pooled, some) if states == EDITED else what_is_seen(model, states, pooled, some)
            )
            with atomic_file(args.out, "give another --out") as part:
                part.write_text(json.dumps(kept), encoding="utf-8")
    lines = [["states", "pooled text", "shows the target", "the anchor", "nothing"], ["---"] * 5]
    for states, pooled in [*MIXES, *edited]:
        seen = Counter(word for key, words in kept.items() if key.startswith(f"{states}/{pooled}/") for word in words)
        shares = [str(wilson(seen[word], seen.total())) for word in (*SIDES, "nothing")]
        lines.append([states, pooled, *shares])
    print(markdown_table(lines), f"n = {args.limit} a row")


if __name__ == "__main__":
    main()
