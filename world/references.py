"""Train a model of the short course, with or without six concepts: `python -m world.references W1 --out FOLDER`.

An erased model is compared with models that never saw the concept. The course is keyed by position: batch, noise,
timestep and empty captions depend on the seed and the step, every scene on the seed and its place, and a scene that
shows one of the six is replaced at its place. So A and W1 see the same but for those scenes; text encoders likewise.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unconcept.core.output_folder import write_atomically
from unconcept.evaluation.references.record import REFERENCE_RECORD
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import ConceptEntry, ConceptTable, concept_table

from . import diffusion, text
from .artwork import Artwork, load
from .captions import Captions
from .course import take_round
from .left_out import LeftOut
from .loop import Plan
from .place import Place, add_place, place_of, world_hash
from .pool import Supply

DRAWN = {"object": 4, "style": 1, "harmful": 1}  # left out of each kind
SECONDS = (0.022, 1.8)  # of one core: a sample of the denoiser, a step of the text encoder (two shared cores, bfloat16)


@dataclass(frozen=True)
class ReferenceModel:
    """Seed of the denoiser's course and of the text encoder's, and which of the two never saw the six."""

    seed: int
    text_seed: int
    left_out: bool = False
    text_left_out: bool = False


MODELS = {
    "A": ReferenceModel(300, 2),
    "B": ReferenceModel(310, 3),
    "W1": ReferenceModel(300, 2, left_out=True, text_left_out=True),
    "W2": ReferenceModel(310, 3, left_out=True, text_left_out=True),
    "W1d": ReferenceModel(300, 2, left_out=True),
}


@dataclass(frozen=True)
class Stage:
    """A rung of the ladder, its steps and its highest rate."""

    rung: int
    steps: int
    lr: float


@dataclass(frozen=True)
class ShortCourse:
    """499,968 samples in batches of 96 on two rungs, and the text encoder's 1,500 batches of 64 as in `rounds/text`."""

    stages: tuple[Stage, ...] = (Stage(0, 2000, 1e-3), Stage(1, 3208, 7e-4))
    batch: int = 96
    pool: int = 3000
    text_steps: int = 1500
    text_batch: int = 64

    @property
    def samples(self) -> int:
        return self.batch * sum(stage.steps for stage in self.stages)

    def hours(self, model: ReferenceModel) -> float:
        """Hours of one undisturbed core, about."""
        steps = 0 if takes_round(model) else self.text_steps
        return (self.samples * SECONDS[0] + steps * SECONDS[1]) / 3600

    def hash(self, without: frozenset[str]) -> str:
        """Of the course, the tables and what is left out: two models of one hash may be compared."""
        key = [asdict(self), concept_table().hash, scene_words().hash, sorted(without)]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]


def left_out_concepts(known: ConceptTable) -> tuple[str, ...]:
    """The six: of each kind the report concepts whose hashes sort first, of different families.

    A concept is passed over if a wording of it is part of another one's, or a drawing of it is another one's too.
    """
    found: list[ConceptEntry] = []
    for kind, count in DRAWN.items():
        choices = _by_hash(known, kind)
        while sum(entry.kind == kind for entry in found) < count:
            entry = next(choices)
            if entry.kind == "style" or entry.family not in {other.family for other in found}:
                found.append(entry)
    return tuple(entry.name for entry in found)


def _by_hash(known: ConceptTable, kind: str) -> Iterator[ConceptEntry]:
    entries = [e for e in known.entries if e.kind == kind and e.erasable and e.split == "report"]
    ranked = sorted(entries, key=lambda e: hashlib.sha256(f"{known.hash}\0{e.name}".encode()).hexdigest())
    return (entry for entry in ranked if _stands_alone(known, entry))


def _stands_alone(known: ConceptTable, entry: ConceptEntry) -> bool:
    left_out = LeftOut.of(known, scene_words(), [entry.name])
    others = [other for other in known.entries if other.name != entry.name]
    named = any(left_out.is_named(wording) for other in others for wording in other.wordings)
    return not named and not any(set(entry.icons) & set(other.icons) for other in others)


def takes_round(model: ReferenceModel) -> bool:
    """Whether its text encoder is the one in `rounds`: of the same course, with nothing left out."""
    return not model.text_left_out and model.text_seed == text.SEEDS["clip"]


def train(name: str, place: Place, out: Path, course: ShortCourse, minutes: float | None = None) -> bool:
    """Train one of MODELS in its own folder of the state, and write its pipeline to `out` when it is complete.

    `minutes` stops earlier, after saving; the same call goes on.
    """
    model, six = MODELS[name], frozenset(left_out_concepts(concept_table()))
    own, clock = replace(place, state=place.state / name), _Clock(minutes)
    without, unnamed = (six if left else frozenset[str]() for left in (model.left_out, model.text_left_out))
    artwork = load(place.data)
    _take_rounds(own, model, artwork)
    if not takes_round(model):
        plan = Plan(course.text_steps, 1e-3, model.text_seed, ema=0.99, minutes=clock.left())
        if not text.train(own, plan, course.text_batch, "clip", unnamed):
            return False
    begin, supply = None, Supply(course.batch, course.pool)
    for number, stage in enumerate(course.stages):
        captions = Captions(concept_table(), scene_words(), stage.rung, without)
        plan = Plan(stage.steps, stage.lr, model.seed + number, minutes=clock.left(), rounded=place.bfloat16)
        here = own.state / f"rung-{stage.rung}"
        if not diffusion.train(own, plan, captions, supply, begin, here):
            return False
        begin = here
    assert begin
    shutil.copytree(begin, out, dirs_exist_ok=True)
    record = {
        "model": name,
        "course": course.hash(six),
        "world": world_hash(artwork),
        "left_out": sorted(without),
        "unnamed": sorted(unnamed),
        "samples": course.samples,
    }
    write_atomically(out / REFERENCE_RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return True


def _take_rounds(own: Place, model: ReferenceModel, artwork: Artwork) -> None:
    """Put what the repository has into the model's folder; `SystemExit` if it stands on other artwork or tables."""
    stages = {"vae": "vae", "text": "clip"} if takes_round(model) else {"vae": "vae"}
    for folder, stage in stages.items():
        if not (own.state / folder).exists() and not take_round(own.state, stage, artwork):
            raise SystemExit(f"{stage}: what `rounds` holds stands on another artwork or table: train it anew")


class _Clock:
    """Minutes that are left of a call."""

    def __init__(self, minutes: float | None) -> None:
        self.ends = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float | None:
        return None if self.ends is None else max(0.01, (self.ends - time.monotonic()) / 60)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pipeline")
    add_place(parser)
    parser.set_defaults(bfloat16=True)
    args = parser.parse_args(argv)
    course = ShortCourse()
    hours = course.hours(MODELS[args.model])
    print(f"{args.model}: {course.samples:,} samples, about {hours:.1f} hours of one core", flush=True)
    print(f"left out of W1, W2 and W1d: {', '.join(left_out_concepts(concept_table()))}", flush=True)
    is_complete = train(args.model, place_of(args), args.out, course, args.minutes)
    print(f"-> {args.out}" if is_complete else "time is up: the same command goes on", flush=True)


if __name__ == "__main__":
    main()
