"""Judge what a finished model draws: `python -m world.score --model FOLDER --rung N [--limit N] [--json FILE]`.

Right objects, styles, backgrounds, counts and places; how far chance decides; what steps and samplers change. Seeds
are 1,000,000 and above, on which nothing is trained or chosen; `--tuning` uses smaller ones, to choose guidance.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unconcept.metrics.intervals import Rate, wilson
from unconcept.models.vision.judge_answers import object_centres, object_words
from unconcept.models.vision.judge_net import Answers, JudgeLabels, JudgeNet, load_judge_net
from unconcept.worlds.scenes import one_phrase, scene_caption, scene_words
from unconcept.worlds.table import concept_table

from .artwork import Artwork, load
from .captions import Caption, Captions, Subject
from .chance import feature_distance, figures, new_share, pixel_distance, two_sample
from .composition import batch_of, compose
from .drawing import Way, draw, open_pipeline, samplers
from .place import Place, add_place, place_of
from .questions import Question, questions, seed_of
from .scenes import RUNGS, draw_scene, scene_at

MUST = {
    "single: object": 0.88,
    "single: style": 0.90,
    "background: background": 0.92,
    "count: count": 0.75,
    "two objects: object": 0.70,
    "left and right: order": 0.80,
    "synonyms given: object": 0.80,
    "synonyms held out: object": 0.80,
}
STEPS = (1, 2, 4, 8, 20)
SEEDS = 20  # pictures of a caption, to measure chance by
SHOWN = 20_000  # training scenes that drawings are compared with for copies


@dataclass(frozen=True)
class Jury:
    """Judges, their words, and where they run."""

    judges: dict[str, JudgeNet]
    words: JudgeLabels
    device: str

    @torch.no_grad()
    def answers(self, name: str, pictures: Tensor) -> Answers:
        """One judge's answers, on the CPU."""
        parts = [self.judges[name](part.to(self.device)) for part in pictures.split(100)]
        together = {}
        for field in ("objects", "style", "background", "count"):
            together[field] = torch.cat([getattr(part, field).cpu() for part in parts])
        return Answers(**together)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """The first judge's embeddings."""
        net = self.judges["first"]
        return torch.cat([net.embed(part.to(self.device)).cpu() for part in pictures.split(100)])


def load_judge(path: Path, device: str) -> tuple[JudgeNet, JudgeLabels]:
    """A judge of a weights file and its words; `SystemExit` if it was trained on another table."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if (metadata["table"], metadata["scenes"]) != (concept_table().hash, scene_words().hash):
        raise SystemExit(f"{path} was trained on another table: train it anew")
    net, words = load_judge_net(path)
    return net.to(device), words


def jury(place: Place, names: tuple[str, ...] = ("first", "second")) -> Jury:
    """The judges of the state folder."""
    loaded = {name: load_judge(place.state / f"judge-{name}.safetensors", place.device) for name in names}
    return Jury({name: judge for name, (judge, _) in loaded.items()}, loaded[names[0]][1], place.device)


def verdicts(asked: list[Question], answers: Answers, words: JudgeLabels) -> Iterator[tuple[str, bool]]:
    """(row of the score table, right or not) of every part of every question."""
    parts = {part for question in asked for part, _ in question.objects}
    seen = {part: object_words(answers, words, part) for part in parts}
    styles, backgrounds = answers.style.argmax(1).tolist(), answers.background.argmax(1).tolist()
    counts = answers.count.argmax(1).tolist()
    for i, question in enumerate(asked):
        for part, labels in question.objects:
            yield f"{question.line}: object", seen[part][i] in labels
        if question.style:
            yield f"{question.line}: style", (*words.styles, None)[styles[i]] == question.style
        if question.background:
            yield f"{question.line}: background", (*words.backgrounds, None)[backgrounds[i]] == question.background
        if question.count:
            yield f"{question.line}: count", counts[i] == question.count
        if question.order:
            yield f"{question.line}: order", _is_in_order(question, _row(answers, i), words)


def _row(answers: Answers, i: int) -> Answers:
    fields = (answers.objects, answers.style, answers.background, answers.count)
    return Answers(*(field[i : i + 1] for field in fields))


def _is_in_order(question: Question, answers: Answers, words: JudgeLabels) -> bool:
    first, second, axis = question.order
    column = "xy".index(axis)
    centres = object_centres(answers)[0]
    places = [centres[words.objects.index(labels[0]), column] for labels in (first, second)]
    return bool(places[0] < places[1])


def rates(rows: Iterator[tuple[str, bool]]) -> dict[str, Rate]:
    """Shares with intervals, in the order of their first row."""
    hits: dict[str, list[bool]] = {}
    for name, is_right in rows:
        hits.setdefault(name, []).append(is_right)
    return {name: wilson(sum(members), len(members)) for name, members in hits.items()}


def agreement(asked: list[Question], one: Answers, other: Answers, words: JudgeLabels) -> dict[str, Rate]:
    """How often two judges say the same of single objects: object, style."""
    rows = [i for i, question in enumerate(asked) if question.line == "single"]
    first, second = (object_words(answers, words) for answers in (one, other))
    styles = (one.style.argmax(1) == other.style.argmax(1)).tolist()
    same = {"object": [first[i] == second[i] for i in rows], "style": [styles[i] for i in rows]}
    return {f"two judges agree: {name}": wilson(sum(members), len(members)) for name, members in same.items()}


def varied_captions(limit: int) -> list[Caption]:
    """Captions of one object and its style: everything else is left to chance."""
    rng = random.Random(17)
    out = []
    for _ in range(limit):
        entry = rng.choice([e for e in concept_table().objects if not e.variants])
        style = rng.choice([s for s in entry.styles if s not in entry.unseen])
        text = scene_caption(one_phrase(entry.name), style)
        out.append(Caption(text, (Subject(entry.name, entry.name),), style=style, style_wording=style))
    return out


def chance(
    drawn_by: Callable[[list[str], list[int]], Tensor], captions: Captions, artwork: Artwork, judges: Jury, limit: int
) -> dict[str, float]:
    """Distances of seeds over those of scenes composed for the same captions; and two-sample tests of what is drawn."""
    distances: dict[str, list[float]] = {"drawn": [], "composed": [], "drawn features": [], "composed features": []}
    drawn, composed = [], []
    for caption in varied_captions(limit):
        seeds = [seed_of(caption.text, 100 + i, tuning=False) for i in range(SEEDS)]
        pictures = drawn_by([caption.text] * SEEDS, seeds)
        scenes = [draw_scene(captions, caption, random.Random(f"{caption.text}/{i}")) for i in range(SEEDS)]
        made = compose(artwork.pixels, batch_of(artwork.index, scenes))
        for name, some in (("drawn", pictures), ("composed", made)):
            distances[name].append(pixel_distance(some))
            distances[f"{name} features"].append(feature_distance(judges.features(some)))
        drawn.append(pictures)
        composed.append(made)
    means = {name: sum(values) / len(values) for name, values in distances.items()}
    out = {"distance of seeds": means["drawn"], "distance of scenes": means["composed"]}
    out["distance of seeds over scenes"] = means["drawn"] / means["composed"]
    out["feature distance of seeds over scenes"] = means["drawn features"] / means["composed features"]
    one, other = figures(torch.cat(drawn)), figures(torch.cat(composed))
    for name in ("area", "x", "y", "angle"):
        out[f"{name}: KS"], out[f"{name}: p"] = two_sample(getattr(one, name), getattr(other, name))
    return out


def shown_scenes(captions: Captions, artwork: Artwork) -> Tensor:
    """Pictures of SHOWN training scenes."""
    parts = []
    for start in range(0, SHOWN, 1000):
        scenes = [scene_at(captions, 3_000_000, start + i) for i in range(1000)]
        parts.append(compose(artwork.pixels, batch_of(artwork.index, scenes)))
    return torch.cat(parts)


def score(place: Place, model: Path, rung: int, limit: int, way: Way | None, tuning: bool) -> dict[str, object]:
    """All figures of one model, printed as they come."""
    pipeline, judges, artwork = open_pipeline(model, place.device), jury(place), load(place.data)
    own, other = samplers(pipeline)
    way = way or Way(own)
    asked = questions(concept_table(), scene_words(), limit, rung, tuning)
    begun = time.process_time()
    pictures = draw(pipeline, [q.text for q in asked], [q.seed for q in asked], way)
    seconds = (time.process_time() - begun) / len(asked)
    first, second = (judges.answers(name, pictures) for name in ("first", "second"))
    table_rows = rates(verdicts(asked, first, judges.words)) | agreement(asked, first, second, judges.words)
    for name, rate in table_rows.items():
        must = f", must reach {MUST[name]:.0%}" if name in MUST else ""
        print(f"{name:34} {rate} n={rate.n}{must}", flush=True)
    singles = [q for q in asked if q.line == "single"]
    steps: dict[str, dict[str, object]] = {}
    for sampler in (own, other):
        for count in STEPS:
            some = draw(
                pipeline, [q.text for q in singles], [q.seed for q in singles], Way(sampler, count, way.guidance)
            )
            told = rates(verdicts(singles, judges.answers("first", some), judges.words))
            steps[f"{sampler}, {count} steps"] = {name: asdict(rate) for name, rate in told.items()}
            print(
                f"{sampler}, {count} steps: " + ", ".join(f"{name} {rate}" for name, rate in told.items()), flush=True
            )
    captions = Captions(concept_table(), scene_words(), rung)
    varied = chance(
        lambda texts, seeds: draw(pipeline, texts, seeds, way), captions, artwork, judges, max(4, limit // 10)
    )
    varied["no copies"] = new_share(pictures, shown_scenes(captions, artwork))
    for name, value in varied.items():
        print(f"{name:40} {value:.3f}", flush=True)
    print(f"{seconds:.2f} CPU s a picture", flush=True)
    told = {name: asdict(rate) for name, rate in table_rows.items()}
    return {"rung": rung, "way": asdict(way), "seconds": seconds, "rates": told, "steps": steps, "chance": varied}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="pipeline folder; `model` in the state folder by default")
    parser.add_argument("--rung", type=int, choices=RUNGS, required=True, help="that the model was trained on")
    parser.add_argument("--limit", type=int, default=150, help="captions of each line")
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int, default=Way.steps)
    parser.add_argument("--guidance-scale", type=float, default=Way.guidance)
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--json", type=Path)
    add_place(parser)
    args = parser.parse_args(argv)
    place = place_of(args)
    model = args.model or place.state / "model"
    sampler = args.sampler or samplers(open_pipeline(model, place.device))[0]
    figures_of = score(place, model, args.rung, args.limit, Way(sampler, args.steps, args.guidance_scale), args.tuning)
    if args.json:
        args.json.write_text(json.dumps(figures_of, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
