"""Train the autoencoder on scenes: `torchrun --nproc-per-node 2 -m world.autoencoder --state FOLDER`.

L1 at three scales plus a difference of gradients (edges), a tiny KL, and noise on the latents so that the decoder
forgives the diffusion model's small errors. At the end the latents' mean and scale per channel go into the quant
convolutions, so latents are zero mean, unit variance and `scaling_factor` is 1.
"""

import argparse
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import SIZE, Artwork, load
from .captions import Captions
from .composition import SceneBatch, batch_of, compose
from .loop import Plan, fit
from .place import Place, add_place, normal, place_of, rank, world_hash
from .scenes import scene_at

CHANNELS = (32, 64, 128, 160)
LATENTS = 16
ANY_DRAWING = 0.3  # share of training scenes whose drawings come from all names of the artwork
RUNGS = (2, 4)  # training scenes are half of each
TEST_SEED = 2_000_000
TEST_SIZE = 512


def build(channels: tuple[int, ...] = CHANNELS, latents: int = LATENTS) -> AutoencoderKL:
    """Factor 8 as in Stable Diffusion with four levels, 4 with three; no attention."""
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


@dataclass(frozen=True)
class Pictures:
    """Scenes to train on, composed when they are asked for."""

    pixels: Tensor
    scenes: SceneBatch

    def __call__(self, pick: Tensor) -> Tensor:
        """Pictures (n, 3, 64, 64) in [-1, 1]."""
        x = compose(self.pixels, self.scenes.rows(pick.to(self.pixels.device)))
        return (2 * x - 1).contiguous(memory_format=torch.channels_last)


def training_scenes(artwork: Artwork, size: int, seed: int) -> SceneBatch:
    """Scenes of both RUNGS; a part of them with drawings of names that no caption says."""
    drawn = [Captions(concept_table(), scene_words(), rung) for rung in RUNGS]
    scenes = batch_of(artwork.index, [scene_at(drawn[i % len(drawn)], seed, i) for i in range(size)])
    g = torch.Generator().manual_seed(seed)
    other = torch.randint(len(artwork.pixels), scenes.drawing.shape, generator=g)
    changed = (torch.rand(size, 1, generator=g) < ANY_DRAWING) & (scenes.drawing >= 0)
    return replace(scenes, drawing=torch.where(changed, other, scenes.drawing))


def test_scenes(artwork: Artwork, rung: int, size: int) -> SceneBatch:
    """Scenes of seeds that no training uses."""
    captions = Captions(concept_table(), scene_words(), rung)
    return batch_of(artwork.index, [scene_at(captions, TEST_SEED, i) for i in range(size)])


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def rebuild_loss(vae: AutoencoderKL, x: Tensor, generator: torch.Generator, place: Place) -> Tensor:
    with place.autocast():
        posterior = vae.encode(x).latent_dist
        random = normal((2, *posterior.mean.shape), generator, x.device)
        z = posterior.mean + posterior.std * random[0]
        scale = 0.05 * posterior.mean.detach().std() * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
        y = vae.decode(z + scale * random[1]).sample
    y = y.float()
    gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    # Averages over 2 and 4 pixels: without them edges win and colours run.
    blurred = sum(F.l1_loss(F.avg_pool2d(y, k), F.avg_pool2d(x, k)) for k in (2, 4))
    squares = F.mse_loss(y, x)
    return F.l1_loss(y, x) + 0.5 * gradients + blurred + squares + 1e-7 * posterior.kl().float().mean()


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, pictures: Pictures, size: int = 1024) -> None:
    """Move the mean and scale of each latent channel into `quant_conv` and `post_quant_conv`."""
    parts = torch.arange(min(size, len(pictures.scenes))).split(64)
    z = torch.cat([vae.encode(pictures(part)).latent_dist.mean for part in parts])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / std
    quant.bias[n:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Pictures) -> float:
    """Peak signal-to-noise ratio of rebuilt pictures in dB, from the mean error over all of them."""
    errors = []
    for part in torch.arange(len(pictures.scenes)).split(64):
        x = pictures(part)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((y - x) / 2).square().mean((1, 2, 3)))
    return float(-10 * torch.cat(errors).mean().log10())


def scores(vae: AutoencoderKL, artwork: Artwork, device: str) -> dict[str, float]:
    """dB on unseen scenes of each rung that training shows."""
    pixels = artwork.pixels.to(device)
    out = {}
    for rung in RUNGS:
        out[f"rung {rung}"] = psnr(vae, Pictures(pixels, test_scenes(artwork, rung, TEST_SIZE).to(device)))
    return out


def train(place: Place, plan: Plan, vae: AutoencoderKL, batch_size: int, pool: int, decoder_only: bool = False) -> bool:
    """Train `vae` and write a copy with folded statistics into the state folder; whether the plan is complete."""
    torch.manual_seed(plan.seed)
    artwork = load(place.data)
    vae = vae.to(place.device, memory_format=torch.channels_last)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    scenes = training_scenes(artwork, pool, 1000 * plan.seed + rank()).to(place.device)
    pictures = Pictures(artwork.pixels.to(place.device), scenes)

    def loss(generator: torch.Generator, step: int) -> Tensor:
        pick = torch.randint(pool, (batch_size,), generator=generator)
        return rebuild_loss(vae, pictures(pick), generator, place)

    name = "decoder" if decoder_only else "autoencoder"
    trained = fit(vae, loss, plan.on(world_hash(artwork)), place.state / f"{name}-{plan.seed}.checkpoint")
    if rank() == 0:
        finished = deepcopy(trained.average)
        assert isinstance(finished, AutoencoderKL)
        if not decoder_only:
            fold_statistics(finished, pictures)
        finished.save_pretrained(place.state / "vae")
        told = ", ".join(f"{name} {value:.2f} dB" for name, value in scores(finished, artwork, place.device).items())
        print(f"autoencoder, step {trained.step}: {told}, {TEST_SIZE} scenes of seed {TEST_SEED}", flush=True)
    return trained.is_complete


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch-size", type=int, default=12, help="of each process")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS, help="of each level")
    parser.add_argument("--latents", type=int, default=LATENTS, help="channels of the latents")
    parser.add_argument("--pool", type=int, default=40_000, help="scenes of each process")
    parser.add_argument("--begin", type=Path, help="autoencoder folder to begin from, with a fresh optimiser")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder, so that latents stay valid")
    parser.add_argument("--seed", type=int, default=1)
    add_place(parser)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    begun = AutoencoderKL.from_pretrained(args.begin, dtype=torch.float32) if args.begin else None
    vae = begun or build(tuple(args.channels), args.latents)
    plan = Plan(args.steps, args.lr, args.seed, ema=0.998, minutes=args.minutes)
    train(place_of(args), plan, vae, args.batch_size, args.pool, args.decoder_only)


if __name__ == "__main__":
    main()
