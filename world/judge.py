"""Train a judge on scenes: `python -m world.judge --name first`, then `second`, `third`; the first and the third one
get a moji-clip too.

Family A of augmentations (slant, shift, blur, noise, colour, autoencoder round trip) trains the first judge, family B
(turn, gamma, coarse pixels, patches, noised latents) the second, which checks it on drawings. The third one is a
transformer trained on both, for methods that see. A tenth of a batch shows nothing anyone knows: noise, plain,
scrambled and mixed pictures.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unconcept.models.vision.judge_answers import object_words
from unconcept.models.vision.judge_net import JUDGE_NETWORKS, Answers, JudgeLabels, answers_on_cpu, load_judge_net
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import load
from .judge_pictures import Exam, batch, exam
from .loop import Plan, fit
from .moji_clip import clip_plan, fit_clip
from .place import Place, add_place, generator, place_of, world_hash
from .truth import NOT_ASKED, Truth

TEST_SEED = 3_000_000


@dataclass(frozen=True)
class Kind:
    """A judge: the augmentations it is trained with, its seed and highest rate."""

    families: str
    seed: int
    lr: float
    has_clip: bool = False
    """Whether it gets a projection to the text encoder's space."""


KINDS = {
    "first": Kind("A", 6, 3e-3, has_clip=True),
    "second": Kind("B", 7, 3e-3),
    "third": Kind("AB", 8, 1e-3, has_clip=True),
}


def judge_loss(answers: Answers, told: Truth) -> Tensor:
    """Every question of every picture that is asked."""
    cells = F.cross_entropy(answers.objects.float(), told.cells, label_smoothing=0.05, ignore_index=NOT_ASKED)
    pairs = ((answers.style, told.style), (answers.background, told.background), (answers.count, told.count))
    whole = [F.cross_entropy(a.float(), t, label_smoothing=0.05, ignore_index=NOT_ASKED) for a, t in pairs]
    return 2 * cells + sum(whole)


@torch.no_grad()
def accuracy(net: nn.Module, e: Exam, family: str, words: JudgeLabels, batches: int = 16) -> dict[str, float]:
    """Right words on one family's augmentations; `object` on scenes of one kind of thing, at rung 4's sizes too."""
    right: dict[str, list[Tensor]] = {"object": [], "style": [], "background": [], "count": [], "nothing": []}
    for i in range(batches):
        x, told = batch(e, family, 240, generator(99, i), words)
        answers, told = answers_on_cpu(net(x)), told.to("cpu")
        shown = told.count > 0
        guess = object_words(answers, words)
        for row in range(len(x)):
            members = {int(label) for label in told.cells[row].flatten() if 0 <= label < len(words.objects)}
            if len(members) == 1:
                right["object"].append(torch.tensor([guess[row] == words.objects[members.pop()]]))
        right["style"].append((answers.style.argmax(1) == told.style)[shown])
        right["background"].append((answers.background.argmax(1) == told.background)[shown])
        right["count"].append((answers.count.argmax(1) == told.count)[shown])
        right["nothing"].append(torch.tensor([guess[row] == "nothing" for row in range(len(x)) if not shown[row]]))
    return {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}


def train(place: Place, plan: Plan, name: str, batch_size: int, pool: int, begin: Path | None = None) -> bool:
    """Train one judge, write it, print its accuracy on unseen scenes; whether the plan is complete."""
    torch.manual_seed(plan.seed)
    kind, artwork = KINDS[name], load(place.data)
    plan = plan.on(world_hash(artwork))
    words = JudgeLabels.of(concept_table(), scene_words())
    vae = AutoencoderKL.from_pretrained(place.state / "vae", dtype=torch.float32).to(place.device).eval()
    shown = exam(artwork, vae, words, plan.seed, pool, kind.families, place)
    net = JUDGE_NETWORKS[name](len(words.objects), len(words.styles), len(words.backgrounds)).to(place.device)
    if begin:
        net.load_state_dict(load_judge_net(begin)[0].state_dict())

    def loss(g: torch.Generator, step: int) -> Tensor:
        x, told = batch(shown, kind.families[step % len(kind.families)], batch_size, g, words)
        with place.autocast():
            answers = net(x)
        return judge_loss(answers, told)

    fitted = fit(net, loss, plan, place.state / f"judge-{name}.checkpoint")
    trained = fitted.average.eval()
    unseen = exam(artwork, vae, words, TEST_SEED, min(pool, 4096), "AB", place)
    figures = {family: accuracy(trained, unseen, family, words, max(1, min(16, pool // 240))) for family in "AB"}
    for family, rates in figures.items():
        told = ", ".join(f"{head} {rate:.3f}" for head, rate in rates.items())
        print(f"{name} judge, step {fitted.step}, family {family}: {told}", flush=True)
    weights = dict(trained.state_dict())
    if kind.has_clip and fitted.is_complete:
        checkpoint = place.state / f"clip-{name}.checkpoint"
        clip, zero_shot = fit_clip(trained, shown, words, clip_plan(plan), checkpoint)
        weights |= clip
        print(f"{name} judge's moji-clip, zero-shot object accuracy on single objects: {zero_shot:.3f}", flush=True)
    labels = {"objects": words.objects, "styles": words.styles, "backgrounds": words.backgrounds}
    metadata = {"labels": json.dumps(labels), "table": concept_table().hash, "scenes": scene_words().hash, "name": name}
    path = place.state / f"judge-{name}.safetensors"
    save_file({n: t.cpu().contiguous() for n, t in weights.items()}, path, metadata=metadata)
    print(f"{sum(p.numel() for p in trained.parameters()) / 1e6:.2f} M parameters -> {path}", flush=True)
    return fitted.is_complete


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", choices=KINDS, default="first")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--pool", type=int, default=12_000, help="scenes")
    parser.add_argument("--begin", type=Path, help="judge to begin from, with a fresh optimiser and other scenes")
    parser.add_argument("--lr", type=float, help="highest rate; the judge's own by default")
    parser.add_argument("--seed", type=int, help="of scenes and batches; the judge's own by default")
    add_place(parser)
    args = parser.parse_args(argv)
    kind = KINDS[args.name]
    seed = kind.seed if args.seed is None else args.seed
    plan = Plan(args.steps, args.lr or kind.lr, seed, ema=0.99, minutes=args.minutes)
    train(place_of(args), plan, args.name, args.batch_size, args.pool, args.begin)


if __name__ == "__main__":
    main()
