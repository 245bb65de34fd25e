"""Train the judge on artwork: `python -m world.judge [--family B]`, then moji-clip's projection.

Family A of augmentations (shift, scale, slant, blur, noise, colour, autoencoder round trip) trains the shipped judge,
family B (turn, gamma, coarse pixels, patches, noised latents) a second one that checks it on the drawings. A tenth of
the batch is nothing anyone knows: noise, blank, scrambled and mixed pictures.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.models.vision.judge_net import JudgeNet
from unconcept.scorers.moji_judge import crop_half
from unconcept.worlds.prompts import object_caption
from unconcept.worlds.table import ConceptTable, concept_table

from .loop import Plan, fit, generator
from .pictures import halves
from .render import CACHE, artwork

LATENT_NOISE = {"A": 0.05, "B": 0.25}


class Drawings:
    """All drawings of the table, clean and rebuilt by the autoencoder, with their labels."""

    def __init__(self, known: ConceptTable, vae: AutoencoderKL, family: str) -> None:
        pictures, index = artwork()
        rows = [
            (index[icon, style], label, style)
            for e in known.objects
            for icon, label in zip(e.icons, e.labels, strict=True)
            for style in e.styles
        ]
        objects = {label: i for i, label in enumerate(known.labels)}
        styles = {entry.name: i for i, entry in enumerate(known.styles)}
        self.pixels = pictures[[row[0] for row in rows]]
        self.object = torch.tensor([objects[row[1]] for row in rows])
        self.style = torch.tensor([styles[row[2]] for row in rows])
        self.rebuilt = _round_trip(vae, self.pixels, LATENT_NOISE[family])
        self.nothing = len(objects), len(styles)


@torch.no_grad()
def _round_trip(vae: AutoencoderKL, pixels: Tensor, noise: float) -> Tensor:
    g = generator(7)
    out = []
    for part in pixels.split(64):
        z = vae.encode(part.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
        y = vae.decode(z + noise * torch.randn(z.shape, generator=g)).sample
        out.append((y * 127.5 + 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1))
    return torch.cat(out)


def uniform(g: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g)


def moved(x: Tensor, g: torch.Generator, turn: float, scale: float, shift: float, shear: float = 0.0) -> Tensor:
    """Turned (degrees), scaled, slanted and shifted (in picture widths), white outside."""
    n = len(x)
    angle, size = uniform(g, n, -turn, turn).deg2rad(), uniform(g, n, 1 - scale, 1 + scale)
    cos, sin = angle.cos() / size, angle.sin() / size
    slant = uniform(g, n, -shear, shear)
    rows = torch.stack(
        [cos, slant - sin, uniform(g, n, -2 * shift, 2 * shift), sin, cos, uniform(g, n, -2 * shift, 2 * shift)], 1
    )
    grid = F.affine_grid(rows.view(n, 2, 3), list(x.shape), align_corners=False)
    return 1 - F.grid_sample(1 - x, grid, align_corners=False)


def augment(x: Tensor, family: str, g: torch.Generator) -> Tensor:
    """Pictures (b, 3, 64, 64) in [0, 1], changed in the ways of one family."""
    n = len(x)
    some = lambda share: (torch.rand(n, generator=g) < share)[:, None, None, None]  # noqa: E731
    if family == "A":
        x = moved(x, g, turn=0, scale=0.15, shift=0.08, shear=0.1)
        for k in (3, 5):
            x = torch.where(some(0.3), F.avg_pool2d(F.pad(x, (k // 2,) * 4, "replicate"), k, 1), x)
        tint = 1 + 0.1 * torch.randn(n, 3, 1, 1, generator=g) + 0.2 * torch.randn(n, 1, 1, 1, generator=g)
        x = 1 - (1 - x) * tint
        return (x + 0.08 * torch.rand(n, 1, 1, 1, generator=g) * torch.randn(x.shape, generator=g)).clamp(0, 1)
    x = moved(x, g, turn=8, scale=0.05, shift=0.03)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.where(some(0.3), coarse, x)
    x = x.clamp(0, 1) ** uniform(g, n, 0.7, 1.4)[:, None, None, None]
    hole = torch.ones_like(x)
    for i, (top, left) in enumerate(torch.randint(56, (n, 2), generator=g).tolist()):
        hole[i, :, top : top + 10, left : left + 10] = 0
    x = torch.where(some(0.4), x * hole + (1 - hole), x)
    return x.clamp(0, 1)


def nothings(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures that show nothing: noise, blank, scrambled patches, and blends of several drawings."""
    n = len(x)
    noise = torch.rand(x.shape, generator=g)
    noise = torch.where(
        torch.rand(n, 1, 1, 1, generator=g) < 0.5,
        noise,
        F.interpolate(F.avg_pool2d(noise, 8), scale_factor=8, mode="bilinear"),
    )
    colour, gray = torch.rand(n, 3, 1, 1, generator=g), torch.rand(n, 1, 1, 1, generator=g)
    plain = torch.rand(n, 1, 1, 1, generator=g)
    blank = torch.where(plain < 0.4, colour, torch.where(plain < 0.7, gray, (gray > 0.3).float())).expand_as(x)
    side = 16 if torch.rand((), generator=g) < 0.5 else 8
    cells = x.unfold(2, side, side).unfold(3, side, side).reshape(n, 3, -1, side, side)
    cells = cells[:, :, torch.randperm(cells.shape[2], generator=g)]
    k = 64 // side
    scrambled = cells.view(n, 3, k, k, side, side).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    blend = (x + x.roll(1, 0) + x.roll(2, 0) + x.roll(3, 0)) / 4
    kinds = torch.stack([noise, blank, scrambled, blend])
    return kinds[torch.randint(4, (n,), generator=g), torch.arange(n)]


def batch(d: Drawings, family: str, size: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with object and style labels. A sixth are one half of a two-object picture, enlarged as in scoring."""
    pick = torch.randint(len(d.pixels), (size,), generator=g)
    source = torch.where((torch.rand(size, generator=g) < 0.5)[:, None, None, None], d.rebuilt[pick], d.pixels[pick])
    sixth = size // 6
    source[:sixth] = halves(source[:sixth], source[sixth : 2 * sixth])
    x = source.permute(0, 3, 1, 2).float() / 255
    x[:sixth] = crop_half(x[:sixth], 0)
    objects, styles = d.object[pick].clone(), d.style[pick].clone()
    empty = size // 10
    x = torch.cat([augment(x[:-empty], family, g), nothings(x[-empty:], g)])
    objects[-empty:], styles[-empty:] = d.nothing
    return x, objects, styles


@torch.no_grad()
def accuracy(net: nn.Module, d: Drawings, family: str) -> dict[str, float]:
    """Right words on one family's augmentations, and "nothing" on pictures that show nothing."""
    right = {"object": [], "style": [], "nothing": []}
    for i in range(16):
        x, objects, styles = batch(d, family, 240, generator(99, i))
        guess, style = (logits.argmax(1) for logits in net(x))
        shown = objects < d.nothing[0]
        right["object"].append((guess == objects)[shown])
        right["style"].append((style == styles)[shown])
        right["nothing"].append((guess == objects)[~shown])
    return {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}


class Projection(nn.Module):
    """moji-clip: the judge's embedding read in the space of the text encoder's end-of-text state."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, text_width)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def similarity(self, embedding: Tensor, texts: Tensor) -> Tensor:
        return self.scale.exp() * F.normalize(self.projection(embedding), dim=1) @ F.normalize(texts, dim=1).T


def fit_clip(net: JudgeNet, d: Drawings, known: ConceptTable, steps: int) -> tuple[dict[str, Tensor], float]:
    """Contrast each augmented drawing with the captions of all others; returns weights and zero-shot accuracy."""
    texts = CACHE / "text"
    tokenizer = CLIPTokenizer.from_pretrained(texts / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(texts / "text_encoder", dtype=torch.float32).eval()

    @torch.no_grad()
    def read(captions: list[str]) -> Tensor:
        coded = tokenizer(captions, padding="max_length")
        ends = torch.tensor(coded["attention_mask"]).sum(1) - 1
        return encoder(torch.tensor(coded["input_ids"])).last_hidden_state[torch.arange(len(captions)), ends]

    styles = [entry.name for entry in known.styles]
    captions = {
        (o, s): object_caption(label, style) for o, label in enumerate(known.labels) for s, style in enumerate(styles)
    }
    keys = {key: i for i, key in enumerate(captions)}
    states = torch.cat([read(part) for part in _chunks(list(captions.values()), 128)])
    plain = read([object_caption(label) for label in known.labels])
    center = plain.mean(0)
    module = Projection(net.object.in_features, len(center))

    def loss(g: torch.Generator) -> Tensor:
        x, objects, kinds = batch(d, "A", 128, g)
        shown = objects < d.nothing[0]
        with torch.no_grad():
            embedding = net.embed(x[shown])
        rows = [keys[pair] for pair in zip(objects[shown].tolist(), kinds[shown].tolist(), strict=True)]
        logits = module.similarity(embedding, states[rows] - center)
        same = torch.tensor(rows)[:, None] == torch.tensor(rows)[None]
        wanted = same.float() / same.sum(1, keepdim=True)
        return F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted.T)

    trained = fit(module, loss, Plan(steps, 2e-3, 5, ema=0.99), CACHE / "clip-5.checkpoint")
    with torch.no_grad():
        x, objects, _ = batch(d, "A", 2400, generator(98))
        shown = objects < d.nothing[0]
        guess = trained.similarity(net.embed(x[shown]), plain - center).argmax(1)
    weights = {f"clip.{name}": tensor for name, tensor in trained.state_dict().items()} | {"clip.center": center}
    return weights, float((guess == objects[shown]).float().mean())


def _chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--family", choices=("A", "B"), default="A")
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    known = concept_table()
    vae = AutoencoderKL.from_pretrained(CACHE / "vae").eval()
    drawings = Drawings(known, vae, args.family)
    net = JudgeNet(len(known.labels), len(known.styles))

    def loss(g: torch.Generator) -> Tensor:
        x, objects, styles = batch(drawings, args.family, args.batch_size, g)
        guess, style = net(x)
        return F.cross_entropy(guess, objects, label_smoothing=0.05) + F.cross_entropy(
            style, styles, label_smoothing=0.05
        )

    trained = fit(net, loss, Plan(args.steps, 3e-3, args.seed, ema=0.99), CACHE / f"judge-{args.family}.checkpoint")
    # Running statistics are not averaged.
    trained.load_state_dict({**net.state_dict(), **dict(trained.named_parameters())})
    trained.eval()
    for family in "AB":
        print(
            f"trained on {args.family}, tested on {family}: {accuracy(trained, Drawings(known, vae, family), family)}"
        )
    weights = dict(trained.state_dict())
    if args.family == "A":
        clip, zero_shot = fit_clip(trained, drawings, known, steps=400)
        weights |= clip
        print(f"moji-clip zero-shot object accuracy on artwork: {zero_shot:.3f}")
    labels = json.dumps({"objects": known.labels, "styles": [entry.name for entry in known.styles]})
    path: Path = CACHE / f"judge-{args.family}.safetensors"
    save_file({n: t.contiguous() for n, t in weights.items()}, path, metadata={"labels": labels, "table": known.hash})
    print(f"{sum(p.numel() for p in trained.parameters()) / 1e6:.2f} M parameters -> {path}")


if __name__ == "__main__":
    main()
