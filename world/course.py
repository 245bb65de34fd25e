"""Train the whole world in one go: `python -m world.course --device cuda --bfloat16 --workers 12 --minutes 10`.

Stages in order, each with its share of the time; a stage that is complete is not repeated, one that was cut off goes
on. The diffusion and flow models climb the ladder: a rung up when the first judge finds the right object in CLIMB of
the pictures, or when they have had their share there. `--stages` picks some of the stages, `--top` is the highest
rung.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, T5EncoderModel

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from . import autoencoder, diffusion, flow, judge, text
from .artwork import Artwork, load
from .captions import Captions
from .drawing import Way, draw, open_pipeline, samplers
from .loop import Plan
from .place import Place, add_place, place_of, world_hash
from .pool import Supply
from .questions import questions
from .scenes import RUNGS
from .score import jury, rates, verdicts

ROUNDS = Path(__file__).parent / "rounds"
ROUND_MODELS: dict[str, tuple[Path, type]] = {  # Folder of a stage's network in the rounds, and its class.
    "vae": (Path("vae"), AutoencoderKL),
    "clip": (Path("text/text_encoder"), CLIPTextModel),
    "t5": (Path("t5/text_encoder_2"), T5EncoderModel),
}
CLIMB = 0.9
MANY = 10**7  # steps: the time decides
ASKED = 100  # captions, to choose by
LADDER = (0.2, 0.15, 0.35, 0.3)  # shares of a model's time on its slices


@dataclass(frozen=True)
class Size:
    """Batch sizes and pools, by what the device carries."""

    pictures: int
    texts: int
    judged: int
    latents: int
    pool: int
    uses: int = 6
    """How often a scene of a pool is trained on, by diffusion and flow."""


SIZES = {"cpu": Size(12, 48, 64, 24, 6000), "cuda": Size(256, 256, 384, 512, 40_000, uses=20)}
SHARES = {
    "vae": 0.2,
    "clip": 0.08,
    "t5": 0.06,
    "first": 0.08,
    "second": 0.06,
    "third": 0.06,
    "diffusion": 0.23,
    "flow": 0.23,
}
ONCE = tuple(name for name in SHARES if name not in ("diffusion", "flow"))


class Record:
    """What is complete: a file a stage in the `course` folder of the state, so that several calls, each with stages of
    its own, may train at the same time.
    """

    def __init__(self, place: Place, world: str) -> None:
        self.folder, self.world = place.state / "course", world
        self.stages = {stage: self._read(stage) for stage in SHARES}

    def is_complete(self, stage: str) -> bool:
        return bool(self.stages[stage]["complete"])

    def finish(self, stage: str) -> None:
        self.stages[stage]["complete"] = True
        self._write(stage)

    def slices(self, model: str) -> list[dict[str, float | None]]:
        """Slices of a model's climb that are complete: rung, share of right objects."""
        return self.stages[model]["slices"]

    def add_slice(self, model: str, rung: int, objects: float | None) -> None:
        self.slices(model).append({"rung": rung, "objects": objects})
        self._write(model)

    def _read(self, stage: str) -> dict[str, Any]:
        path = self.folder / f"{stage}.json"
        if not path.exists():
            return {"world": self.world, "complete": False, "slices": []}
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["world"] != self.world:
            raise SystemExit(f"{path} belongs to another table or artwork: choose another --state")
        return told

    def _write(self, stage: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps(self.stages[stage], indent=1) + "\n"
        (self.folder / f"{stage}.json").write_text(told, encoding="utf-8")


@dataclass(frozen=True)
class Course:
    """A place, what it carries, the minutes of all stages together, and when this call must end."""

    place: Place
    size: Size
    minutes: float
    ends: float
    top: int
    stages: tuple[str, ...]
    """Those that share the minutes."""

    def left(self) -> float:
        """Minutes until the end of this call."""
        return (self.ends - time.monotonic()) / 60

    def plan(self, stage: str, lr: float, seed: int, share: float = 1.0, **changes: float) -> Plan:
        """A plan of a share of the stage's time that stops when this call must end."""
        together = sum(SHARES[name] for name in self.stages)
        budget = self.minutes * SHARES[stage] / together * share
        return Plan(MANY, lr, seed, budget=budget, minutes=max(0.01, self.left()), **changes)


def take_rounds(place: Place, record: Record, artwork: Artwork, rounds: Path = ROUNDS) -> None:
    """Begin with the autoencoder and the text encoders that earlier rounds left in the repository.

    They must stand on this artwork, the text encoders on these tables too.
    """
    for stage in ROUND_MODELS:
        if not record.is_complete(stage) and take_round(place.state, stage, artwork, rounds):
            record.finish(stage)


def take_round(state: Path, stage: str, artwork: Artwork, rounds: Path = ROUNDS) -> bool:
    """Copy what a round left of a stage into a state folder, in float32; whether it is there and fits."""
    folder, model = ROUND_MODELS[stage]
    begun = rounds / folder.parts[0]
    told = begun / "round.json"
    wanted = artwork.hash if stage == "vae" else world_hash(artwork)
    if not told.exists() or json.loads(told.read_text(encoding="utf-8"))["stands_on"] != wanted:
        return False
    goal = state / ("vae" if stage == "vae" else "text")
    shutil.copytree(begun, goal, dirs_exist_ok=True)
    model.from_pretrained(rounds / folder, dtype=torch.float32).save_pretrained(goal / folder.relative_to(begun.name))
    print(f"{stage}: taken from {rounds.name}/{begun.name}", flush=True)
    return True


def run_once(course: Course, stage: str) -> bool:
    """Train one of the parts that all models stand on; whether it is complete."""
    place, size = course.place, course.size
    if stage == "vae":
        plan = course.plan(stage, 2e-3, 1, ema=0.998)
        return autoencoder.train(place, plan, autoencoder.build(), size.pictures, 2 * size.pool)
    if stage in text.SEEDS:
        return text.train(place, course.plan(stage, 1e-3, text.SEEDS[stage], ema=0.99), size.texts, stage)
    kind = judge.KINDS[stage]
    return judge.train(place, course.plan(stage, kind.lr, kind.seed, ema=0.99), stage, size.judged, size.pool)


def object_rate(place: Place, folder: Path, rung: int) -> float | None:
    """Share of right objects of a pipeline, on seeds and captions to choose by; None while there is no first judge."""
    if not (place.state / "judge-first.safetensors").exists():
        print(f"rung {rung}: no judge yet", flush=True)
        return None
    pipeline, judges = open_pipeline(folder, place.device), jury(place, ("first",))
    asked = [q for q in questions(concept_table(), scene_words(), ASKED, rung, tuning=True) if q.line == "single"]
    pictures = draw(pipeline, [q.text for q in asked], [q.seed for q in asked], Way(samplers(pipeline)[0]))
    told = rates(verdicts(asked, judges.answers("first", pictures), judges.words))
    print(f"rung {rung}: " + ", ".join(f"{name} {rate}" for name, rate in told.items()), flush=True)
    return told["single: object"].value


def climb(course: Course, record: Record, model: str, train: Callable[..., bool]) -> None:
    """The next slices of a model's ladder, as time allows: each begins from the weights of the one before."""
    out = course.place.state / {"diffusion": "model", "flow": "flow"}[model]
    done = record.slices(model)
    for number in range(len(done), len(LADDER)):
        rung = next_rung(done, course.top, len(LADDER) - number)
        seed = {"diffusion": 100, "flow": 200}[model] + number
        lr = 1e-3 if number == 0 else 7e-4
        captions = Captions(concept_table(), scene_words(), rung)
        plan = course.plan(model, lr, seed, LADDER[number])
        begin = out if number else None
        supply = Supply(course.size.latents, course.size.pool, course.size.uses)
        complete = train(course.place, plan, captions, supply, begin, out)
        rate = object_rate(course.place, out, rung)
        if not complete:
            return
        record.add_slice(model, rung, rate)


def next_rung(done: list[dict[str, float | None]], top: int, slices_left: int) -> int:
    """A rung up when objects stand, or when as many slices are left as rungs."""
    if not done:
        return 0
    last = int(done[-1]["rung"] or 0)
    is_due = top - last >= slices_left
    return min(top, last + 1) if (done[-1]["objects"] or 0) >= CLIMB or is_due else last


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--top", type=int, choices=RUNGS, default=2, help="highest rung")
    parser.add_argument(
        "--whole", type=float, help="minutes of the whole course, over several calls; --minutes by default"
    )
    parser.add_argument("--anew", action="store_true", help="train everything, take nothing from `rounds`")
    parser.add_argument("--pool", type=int, help="scenes of a pool, fewer than the device carries")
    add_place(parser)
    args = parser.parse_args(argv)
    if args.minutes is None:
        parser.error("--minutes is needed: how long this call may take")
    place = place_of(args)
    size = SIZES["cuda" if place.device.startswith("cuda") else "cpu"]
    size = replace(size, pool=args.pool) if args.pool else size
    ends = time.monotonic() + 60 * args.minutes
    artwork = load(place.data)
    record = Record(place, world_hash(artwork))
    if not args.anew:
        take_rounds(place, record, artwork)
    sharing = tuple(
        stage for stage in args.stages if not (stage in ("vae", "clip", "t5") and record.is_complete(stage))
    )
    course = Course(place, size, args.whole or args.minutes, ends, args.top, sharing)
    for stage in args.stages:
        if course.left() <= 0:
            print(f"time is up before {stage}: the same command goes on", flush=True)
            return
        begun = time.monotonic()
        if stage in ONCE:
            if not record.is_complete(stage) and run_once(course, stage):
                record.finish(stage)
        else:
            climb(course, record, stage, {"diffusion": diffusion.train, "flow": flow.train}[stage])
        print(f"{stage}: {(time.monotonic() - begun) / 60:.1f} min, {course.left():.1f} min left", flush=True)


if __name__ == "__main__":
    main()
