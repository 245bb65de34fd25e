"""Judge what the model draws: `python -m world.score [--limit N] [--json FILE]`.

Seeds are 1,000,000 and above, on which nothing is trained or chosen; `--tuning` uses smaller ones, to choose guidance.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.rates import judge_labels
from unconcept.evaluation.sampling import DrawSpec, draw_prompts
from unconcept.metrics.intervals import wilson
from unconcept.models import open_model
from unconcept.prompts.checks import Check, seeded_prompt
from unconcept.report.images import to_image
from unconcept.scorers import NOTHING_LABEL
from unconcept.worlds.prompts import object_caption, pair_caption
from unconcept.worlds.table import ConceptTable, concept_table

from .render import CACHE

MUST = {"object": 0.90, "style": 0.95, "two objects": 0.75, "synonym given": 0.75, "synonym held out": 0.75}


def questions(known: ConceptTable, limit: int | None, tuning: bool) -> Iterator[tuple[str, Check]]:
    """(line of the score table, check). `limit` prompts a line at most, taken at random but always the same."""
    rng = random.Random(0)
    pairs = [(e, s) for e in known.objects for s in e.styles]
    rng.shuffle(pairs)
    for seen, name in ((True, "object"), (False, "object, unseen pair")):
        members = [(e, s) for e, s in pairs if (s not in e.unseen) == seen][:limit]
        for entry, style in members:
            asked = seeded_prompt(object_caption(entry.name, style), 0, tuning)
            yield name, Check(asked, "direct", entry.name, "object", entry.labels)
            yield name.replace("object", "style"), Check(asked, "style", style, "style", (style,))
    doubles = [(a, b, s) for (a, s), (b, _) in pairwise(pairs) if s in b.styles and a != b]
    for left, right, style in doubles[: limit or 400]:
        asked = seeded_prompt(pair_caption(left.name, right.name, style), 0, tuning)
        yield "two objects", Check(asked, "co-occurring", left.name, "left", left.labels)
        yield "two objects", Check(asked, "co-occurring", right.name, "right", right.labels)
    for share in ("given", "held_out"):
        said = [(e, word) for e in known.objects for word in (*getattr(e.synonyms, share), *getattr(e.indirect, share))]
        rng.shuffle(said)
        for i, (entry, word) in enumerate(said[:limit]):
            asked = seeded_prompt(object_caption(word, entry.styles[i % len(entry.styles)]), 0, tuning)
            yield f"synonym {share.replace('_', ' ')}", Check(asked, "synonym", entry.name, "object", entry.labels)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="moji")
    parser.add_argument("--judge", type=Path, help="another judge's weights; the shipped one by default")
    parser.add_argument("--second", type=Path, help="a second judge: how often the two agree")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--guidance-scale", type=float, default=DrawSpec.guidance_scale)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument(
        "--sheet", type=int, default=0, metavar="N", help="also write N drawings as PNG, to label by eye"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    asked = list(questions(concept_table(), args.limit, args.tuning))
    prompts = list(dict.fromkeys(check.prompt for _, check in asked))
    model, begun = open_model(args.model), time.process_time()
    spec = DrawSpec(args.steps, args.guidance_scale)
    drawn = draw_prompts(model, prompts, spec)
    seconds = (time.process_time() - begun) / len(prompts)
    pictures = dict(zip(prompts, drawn, strict=True))
    checks = [check for _, check in asked]
    judge = Judge("moji-judge", str(args.judge) if args.judge else None)
    given = judge_labels(judge, checks, pictures)
    second = judge_labels(Judge("moji-judge", str(args.second)), checks, pictures) if args.second else given
    scores = {"seconds": seconds, "pictures": len(prompts), "spec": asdict(spec)}
    for line in dict.fromkeys(line for line, _ in asked):
        members = [(check, *both) for (name, check), *both in zip(asked, given, second, strict=True) if name == line]
        rate = wilson(sum(word in check.labels for check, word, _ in members), len(members))
        nothing = sum(word == NOTHING_LABEL for _, word, _ in members) / len(members)
        agree = wilson(sum(word == other for _, word, other in members), len(members))
        must = f", must reach {MUST[line]:.0%}" if line in MUST else ""
        told = f", both judges agree {agree}" if args.second else ""
        print(f"{line:22} {rate} n={rate.n} nothing {nothing:.1%}{must}{told}", flush=True)
        scores[line] = {**asdict(rate), "nothing": nothing} | ({"agreement": asdict(agree)} if args.second else {})
    print(f"{seconds:.2f} CPU s a picture")
    if args.sheet:
        folder = CACHE / "sheet"
        folder.mkdir(exist_ok=True)
        chosen = random.Random(1).sample([i for i, (line, _) in enumerate(asked) if line == "object"], args.sheet)
        for number, i in enumerate(chosen):
            to_image(pictures[checks[i].prompt]).save(folder / f"{number:03d}.png")
        rows = [{"text": checks[i].prompt.text, "seed": checks[i].prompt.seed, "judge": given[i]} for i in chosen]
        (folder / "judge.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
