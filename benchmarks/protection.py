"""Protection of ten emoji that `moji` does not know: `python -m benchmarks.protection [--out DIR] [--docs DIR]`.

Renders drawings outside the table of concepts from the artwork's package, protects pictures of each, lets learners
learn clean and protected ones from the same seeds, and writes `docs/protection.md`. Pictures, copies and stages are
kept one by one, so the same command goes on after being stopped.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unconcept.core import pinned_threads
from unconcept.core.concept import Concept
from unconcept.core.settings import build_settings, settings_data
from unconcept.core.source import source_hash
from unconcept.evaluation.judging.judge import ImageMeasures, image_measures
from unconcept.evaluation.protection.learners import Subject
from unconcept.evaluation.protection.proof import CLEAN, Arm, ProofPlan, prove
from unconcept.evaluation.protection.recognition import Recogniser
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.worlds import recipe_settings, world_of
from unconcept.models.images import read_picture
from unconcept.protection import Protection, ProtectionCase, protect_picture, protections
from unconcept.report.images import to_image
from unconcept.scorers.pixels import PixelDistance
from unconcept.training.perturbation.budget import ChangeBudget, in_8_bits, psnr
from unconcept.training.session import Rehearsal, TrainingSession, training_session
from world.artwork import CACHE
from world.composition import SceneBatch, compose, placement_matrix
from world.render import SETS, draw, fetch, icons
from world.scenes import Placement

from . import protection_page
from .protection_page import PICTURES, STAGES

STYLE, MODEL, OTHER_BASE = "twemoji", "moji", "moji-flow"
EMOJI = (
    "accordion", "avocado", "boomerang", "broccoli", "crayon", "flamingo", "giraffe", "hedgehog", "jellyfish",
    "kangaroo",
)  # fmt: skip
METHODS = ("trajectory-shift", "pixel-pgd", "jpeg", "blur")
MOST, COPIES = 0.05, 10
_SIDES, _GROUNDS = (0.875, 0.75, 0.875), ((255, 255, 255), (207, 226, 243), (252, 229, 205))
_MODULES = (  # what pictures and copies depend on
    "unconcept.protection.trajectory_shift",
    "unconcept.protection.pixel_pgd",
    "unconcept.evaluation.protection.learners",
    "unconcept.attacks.relearning",
    "unconcept.attacks.concept_inversion",
)
_HELD_OUT = 2**40 + 1  # seed of the loss in figures


@dataclass(frozen=True)
class Setup:
    """What all emoji share."""

    subject: EditedModel
    clean: Mapping[str, Tensor]
    """Pictures (PICTURES, 3, 64, 64) of each emoji."""
    budget: ChangeBudget
    folder: Path

    @classmethod
    def of(cls, artwork: Path, folder: Path) -> "Setup":
        budget = ChangeBudget(PixelDistance().compare, "pixels", "", MOST)
        return cls(EditedModel(MODEL), clean_pictures(artwork), budget, folder)

    def case(self, picture: Tensor) -> ProtectionCase:
        return ProtectionCase(self.subject.base(), picture, self.budget)


def clean_pictures(artwork: Path) -> dict[str, Tensor]:
    """Pictures of each emoji: other places, sizes and grounds, one of them mirrored."""
    drawn = icons(fetch(SETS[STYLE], artwork))
    drawings = torch.stack([_premultiplied(draw(drawn[name])) for name in EMOJI])
    return {name: in_8_bits(_scenes(drawings, i)) for i, name in enumerate(EMOJI)}


def _premultiplied(webp: bytes) -> Tensor:
    pixels = np.array(Image.open(BytesIO(webp)).convert("RGBA"))
    drawing = torch.from_numpy(pixels).permute(2, 0, 1).float()
    drawing[:3] *= drawing[3:] / 255
    return drawing.round().byte()


def _scenes(drawings: Tensor, number: int) -> Tensor:
    rng, matrices = random.Random(f"protection/{number}"), []
    for i, side in enumerate(_SIDES):
        x, y = (rng.uniform(side / 2, 1 - side / 2) for _ in range(2))
        matrices.append([placement_matrix(Placement(x, y, side, 0.0, i == 1)), [0.0] * 6, [0.0] * 6])
    drawing = torch.tensor([[number, -1, -1]] * PICTURES)
    sides = torch.tensor([[side, 1.0, 1.0] for side in _SIDES])
    ground = torch.tensor(_GROUNDS, dtype=torch.uint8)
    return compose(drawings, SceneBatch(drawing, torch.tensor(matrices), sides, ground))


def protection_named(name: str) -> Protection:
    """A protection as its recipe for `moji` sets it."""
    found: Protection = build_settings(protections[name].settings, recipe_settings(world_of(MODEL), name))
    return found


def protected_pictures(setup: Setup, emoji: str, name: str) -> Tensor:
    """The protected pictures of an emoji, kept one by one."""
    found, place = [], setup.folder / emoji
    for i, picture in enumerate(setup.clean[emoji]):
        path = place / f"{name}-{i}.png"
        if not path.exists():
            place.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            to_image(protect_picture(protection_named(name), setup.case(picture))).save(part, "PNG")
            part.replace(path)
        found.append(read_picture(path))
    return torch.stack(found)


def plan_of(setup: Setup, emoji: str, stage: str, sets: Mapping[str, Tensor]) -> ProofPlan:
    """LoRA learns from every set, textual inversion, which costs more, from the first two, adaptive LoRA from one."""
    subject = Subject(setup.clean[emoji], Concept("sks"))
    count = {"lora": len(METHODS), "textual-inversion": 2, "adaptive": 1}[stage]
    chosen = {name: sets[name] for name in METHODS[:count]}
    if stage == "textual-inversion":
        return ProofPlan(subject, chosen, setup.subject, ("textual-inversion",), COPIES)
    more = stage == "adaptive"
    return ProofPlan(subject, chosen, setup.subject, ("lora",), COPIES, None, more, OTHER_BASE if more else None)


def measure(setup: Setup, emoji: str, stage: str) -> dict[str, Any]:
    """Protect the pictures of one emoji, let a learner learn them, and count copies recognised."""
    measures, clean = _measures(), setup.clean[emoji]
    sets = {name: protected_pictures(setup, emoji, name) for name in METHODS}
    others = torch.cat([pictures for name, pictures in setup.clean.items() if name != emoji])

    def recogniser(unlearned: Tensor) -> Recogniser:
        assert measures.embedding is not None
        return Recogniser.of(measures.embedding, clean, torch.cat([unlearned, others]))

    rows = prove(plan_of(setup, emoji, stage, sets), recogniser, setup.folder / emoji / "copies")
    found: dict[str, Any] = {"emoji": emoji, "stage": stage, "rows": [row.data() for row in rows], "figures": {}}
    if stage == STAGES[0]:
        found["figures"] = {name: _figures(setup, clean, given) for name, given in {CLEAN: clean, **sets}.items()}
    return found


def _measures() -> ImageMeasures:
    judge = world_of(MODEL).judge
    assert judge is not None
    return image_measures(judge)


def _figures(setup: Setup, clean: Tensor, given: Tensor) -> dict[str, float]:
    pair = _measures().pair
    assert pair is not None
    loss = setup.case(clean[0]).learning_loss(8)
    return {
        "pixels": float(setup.budget.distance(clean, given).mean()),
        "psnr": float(psnr(clean, given).clamp_max(99).mean()),
        "judge-features": float(pair.compare(clean, given).mean()),
        "loss": sum(loss.held_out(picture, _HELD_OUT, 4) for picture in given) / len(given),
    }


def seconds_left(setup: Setup, left: list[tuple[str, str]]) -> float:
    """Seconds of the stages that are left, by a few steps of each training; pictures to be protected are not read."""
    emoji, model, total = EMOJI[0], setup.subject.base(), 0.0
    sets = dict.fromkeys(METHODS, setup.clean[emoji])
    for name in METHODS:
        missing = sum(not (setup.folder / one / f"{name}-{i}.png").exists() for one in EMOJI for i in range(PICTURES))
        case = setup.case(setup.clean[emoji][0])
        total += missing * _rehearsed(lambda: protect_picture(protection_named(name), case))  # noqa: B023
    for stage in {stage for _, stage in left}:
        plan = plan_of(setup, emoji, stage, sets)
        learner, prompts = plan.learner(plan.learners[0], Arm(CLEAN, setup.clean[emoji], setup.subject)), plan.prompts()
        spec = plan.spec(setup.subject)
        once = _rehearsed(lambda: learner.copies(model, plan.clean, prompts, spec))  # noqa: B023
        factors = {"lora": 1 + len(METHODS), "textual-inversion": 3, "adaptive": 3 + 2 * 8 + 2}[stage]
        total += sum(own == stage for _, own in left) * factors * once
    return total


def _rehearsed(work: Callable[[], object]) -> float:
    rehearsal, begun = Rehearsal(), time.process_time()
    with training_session(TrainingSession(rehearsal=rehearsal)):
        work()
    return time.process_time() - begun + rehearsal.left_out


def kept(path: Path) -> dict[str, Any] | None:
    """What was measured, if it was."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def kept_stages(folder: Path) -> Iterator[dict[str, Any]]:
    """All that was measured, in the order of the emoji."""
    for emoji in EMOJI:
        for stage in STAGES:
            if (one := kept(folder / f"{emoji}-{stage}.json")) is not None:
                yield one


def run(setup: Setup, left: list[tuple[str, str]], minutes: float) -> None:
    """Measure stage after stage; none is begun after so many minutes."""
    begun = time.monotonic()
    for emoji, stage in left:
        if time.monotonic() - begun > 60 * minutes:
            return
        started = time.process_time()
        found = measure(setup, emoji, stage)
        whole = {**found, "seconds": time.process_time() - started}
        (setup.folder / f"{emoji}-{stage}.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        print(f"{emoji}, {stage}: {whole['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/protection"), help="where pictures and figures are kept")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--artwork", type=Path, default=CACHE / "npm", help="folder of the artwork's packages")
    parser.add_argument("--emoji", default=",".join(EMOJI), help="of the ten, separated by commas")
    parser.add_argument("--stages", default=",".join(STAGES), help="separated by commas")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="no stage is begun after them")
    parser.add_argument("--no-estimate", action="store_true", help="leave out the hours, which take time to estimate")
    args = parser.parse_args()
    folder = args.out / source_hash(*_MODULES)[:12]  # what other code made is not gone on with
    with pinned_threads(1):
        wanted = [(emoji, stage) for stage in args.stages.split(",") for emoji in args.emoji.split(",")]
        left = [one for one in wanted if kept(folder / f"{'-'.join(one)}.json") is None]
        if left and args.max_minutes > 0:
            setup = Setup.of(args.artwork, folder)
            hours = "" if args.no_estimate else f": about {seconds_left(setup, left) / 3600:.1f} hours of one core"
            print(f"{len(left)} of {len(EMOJI) * len(STAGES)} stages are left{hours}", flush=True)
            run(setup, left, args.max_minutes)
    settings = {name: settings_data(protection_named(name)) for name in METHODS}
    page = protection_page.page(list(kept_stages(folder)), settings, EMOJI)
    (args.docs / "protection.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
