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
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.models.vision.judge_answers import object_words
from unconcept.models.vision.judge_net import (
    JUDGE_NETWORKS,
    Answers,
    JudgeLabels,
    JudgeNet,
    answers_on_cpu,
    load_judge_net,
)
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import Artwork, load
from .captions import Captions
from .composition import SceneBatch, batch_of, compose
from .loop import Plan, fit
from .place import Place, add_place, generator, normal, place_of, world_hash
from .scenes import Scene, scene_at
from .truth import NOT_ASKED, Truth, truth_of

LATENT_NOISE = {"A": 0.05, "B": 0.25}
RUNGS = (0, 2, 4)
CHUNK = 256  # scenes rebuilt at once
HOLE = 8  # pixels across what family B hides
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


@dataclass(frozen=True)
class Exam:
    """Scenes with their truth, and the same pictures rebuilt by the autoencoder, one set a family."""

    pixels: Tensor
    scenes: SceneBatch
    truth: Truth
    rebuilt: dict[str, Tensor]
    drawn: list[Scene]
    place: Place


def exam(
    artwork: Artwork, vae: AutoencoderKL, words: JudgeLabels, seed: int, size: int, families: str, place: Place
) -> Exam:
    """Scenes of all RUNGS, held-out pairs among them."""
    captions = [Captions(concept_table(), scene_words(), rung, everything=True) for rung in RUNGS]
    drawn = [scene_at(captions[i % len(captions)], seed, i) for i in range(size)]
    scenes = batch_of(artwork.index, drawn).to(place.device)
    pixels = artwork.pixels.to(place.device)
    rebuilt = {family: round_trip(vae, pixels, scenes, LATENT_NOISE[family], place) for family in families}
    return Exam(pixels, scenes, truth_of(drawn, words).to(place.device), rebuilt, drawn, place)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pixels: Tensor, scenes: SceneBatch, noise: float, place: Place) -> Tensor:
    """Pictures (n, 3, 64, 64) uint8 as the autoencoder rebuilds them from noised latents."""
    g = generator(7)
    out = []
    for part in torch.arange(len(scenes)).split(CHUNK):
        x = compose(pixels, scenes.rows(part.to(place.device)))
        with place.autocast():
            z = vae.encode(2 * x - 1).latent_dist.mean
            y = vae.decode(z + noise * normal(z.shape, g, place.device)).sample.float()
        out.append((y * 127.5 + 127.5).clamp(0, 255).round().byte())
    return torch.cat(out)


def uniform(g: torch.Generator, x: Tensor, low: float, high: float) -> Tensor:
    """One number a picture, (b, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=g)).to(x.device)


def moved(x: Tensor, g: torch.Generator, turn: float, shift: float, shear: float) -> Tensor:
    """Turned (degrees), slanted and shifted (in picture widths) a little; the rim is repeated outside."""
    angle, slant = uniform(g, x, -turn, turn).deg2rad().flatten(), uniform(g, x, -shear, shear).flatten()
    across, down = (uniform(g, x, -2 * shift, 2 * shift).flatten() for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([cos, slant - sin, across, sin, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def augment(x: Tensor, family: str, g: torch.Generator) -> Tensor:
    """Pictures (b, 3, 64, 64) in [0, 1], changed in the ways of one family."""
    if family == "A":
        x = moved(x, g, turn=0, shift=0.03, shear=0.1)
        for k in (3, 5):
            x = torch.where(uniform(g, x, 0, 1) < 0.25, F.avg_pool2d(F.pad(x, (k // 2,) * 4, "replicate"), k, 1), x)
        tint = 1 + 0.06 * torch.randn(len(x), 3, 1, 1, generator=g) + 0.1 * torch.randn(len(x), 1, 1, 1, generator=g)
        x = 1 - (1 - x) * tint.to(x.device)
        return (x + uniform(g, x, 0, 0.08) * normal(x.shape, g, x.device)).clamp(0, 1)
    x = moved(x, g, turn=6, shift=0.02, shear=0)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.where(uniform(g, x, 0, 1) < 0.3, coarse, x).clamp(0, 1) ** uniform(g, x, 0.8, 1.25)
    corner = torch.randint(x.shape[-1] - HOLE, (len(x), 2, 1), generator=g).to(x.device)
    inside = (torch.arange(x.shape[-1], device=x.device) - corner).div(HOLE, rounding_mode="floor") == 0
    hole = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(hole & (uniform(g, x, 0, 1) < 0.4), x[:, :, :1, :1], x)


def nothings(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures that show nothing: noise, plain, scrambled patches, and blends of several scenes."""
    n = len(x)
    noise = torch.rand(x.shape, generator=g).to(x.device)
    soft = F.interpolate(F.avg_pool2d(noise, 8), scale_factor=8, mode="bilinear")
    noise = torch.where(uniform(g, x, 0, 1) < 0.5, noise, soft)
    colour, gray = torch.rand(n, 3, 1, 1, generator=g).to(x.device), uniform(g, x, 0, 1)
    plain = torch.where(uniform(g, x, 0, 1) < 0.6, colour, gray).expand_as(x)
    side = 16 if torch.rand((), generator=g) < 0.5 else 8
    cells = x.unfold(2, side, side).unfold(3, side, side).reshape(n, 3, -1, side, side)
    cells = cells[:, :, torch.randperm(cells.shape[2], generator=g)]
    k = 64 // side
    scrambled = cells.view(n, 3, k, k, side, side).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    blend = (x + x.roll(1, 0) + x.roll(2, 0) + x.roll(3, 0)) / 4
    kinds = torch.stack([noise, plain, scrambled, blend])
    return kinds[torch.randint(4, (n,), generator=g), torch.arange(n)]


def batch(e: Exam, family: str, size: int, g: torch.Generator, words: JudgeLabels) -> tuple[Tensor, Truth]:
    """Augmented pictures with their truth; half of them rebuilt, the last tenth shows nothing."""
    pick = torch.randint(len(e.scenes), (size,), generator=g).to(e.pixels.device)
    clean = compose(e.pixels, e.scenes.rows(pick))
    x = torch.where(uniform(g, clean, 0, 1) < 0.5, e.rebuilt[family][pick].float() / 255, clean)
    empty = max(1, size // 10)
    x = torch.cat([augment(x[:-empty], family, g), nothings(x[-empty:], g)])
    told = e.truth.rows(pick)
    told.cells[-empty:], told.style[-empty:] = len(words.objects), len(words.styles)
    told.background[-empty:], told.count[-empty:] = NOT_ASKED, 0
    return x, told


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


class Projection(nn.Module):
    """moji-clip: the judge's embedding read in the space of the text encoder's end-of-text state."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, text_width)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def similarity(self, embedding: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines (b, n)."""
        return self.scale.exp() * F.normalize(self.projection(embedding), dim=1) @ F.normalize(texts, dim=1).T


@torch.no_grad()
def end_states(place: Place, texts: list[str]) -> Tensor:
    """The text encoder's end-of-text state of each text."""
    tokenizer = CLIPTokenizer.from_pretrained(place.state / "text" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(place.state / "text" / "text_encoder", dtype=torch.float32)
    encoder = encoder.to(place.device).eval()
    out = []
    for start in range(0, len(texts), 256):
        coded = tokenizer(texts[start : start + 256], padding="max_length")
        ends = torch.tensor(coded["attention_mask"]).sum(1) - 1
        states = encoder(torch.tensor(coded["input_ids"], device=place.device)).last_hidden_state
        out.append(states[torch.arange(len(ends)), ends])
    return torch.cat(out)


def clip_plan(plan: Plan) -> Plan:
    """moji-clip's: at most 600 steps, or a fifth of a judge's minutes."""
    budget = None if plan.budget is None else plan.budget / 5
    return Plan(min(600, plan.steps), 2e-3, 5, ema=0.99, budget=budget, world=plan.world)


def fit_clip(
    net: JudgeNet, e: Exam, words: JudgeLabels, plan: Plan, checkpoint: Path
) -> tuple[dict[str, Tensor], float]:
    """Contrast each augmented scene with all captions; weights, and zero-shot accuracy of single objects."""
    place = e.place
    states = end_states(place, [scene.caption.text for scene in e.drawn])
    plain = end_states(place, [f"a {label}" for label in words.objects])
    center = plain.mean(0)
    module = Projection(net.heads.embedding.out_features, len(center)).to(place.device)

    def embedded(size: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(e.scenes), (size,), generator=g).to(place.device)
        with torch.no_grad():
            return net.embed(augment(compose(e.pixels, e.scenes.rows(pick)), "A", g)), pick

    def loss(g: torch.Generator, step: int) -> Tensor:
        embedding, pick = embedded(256, g)
        logits = module.similarity(embedding, states[pick] - center)
        wanted = torch.arange(len(pick), device=place.device)
        return F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)

    trained = fit(module, loss, plan, checkpoint).average
    assert isinstance(trained, Projection)
    with torch.no_grad():
        embedding, pick = embedded(2400, generator(98))
        guess = trained.similarity(embedding, plain - center).argmax(1).tolist()
    shown = [e.drawn[i].sprites for i in pick.tolist()]
    single = [words.objects[g] == s[0].label for g, s in zip(guess, shown, strict=True) if len(s) == 1]
    weights = {f"clip.{name}": tensor for name, tensor in trained.state_dict().items()} | {"clip.center": center}
    return weights, sum(single) / len(single)


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
