"""Train the autoencoder, 64x64x3 -> 8x8x16: `torchrun --nproc-per-node 2 -m world.autoencoder`.

L1 at three scales plus a difference of gradients (edges), a tiny KL, and noise on the latents so that the decoder
forgives the diffusion model's small errors. At the end the latents' mean and scale per channel go into the quant
convolutions, so latents are zero mean, unit variance and `scaling_factor` is 1.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from .loop import Plan, fit, rank
from .pictures import halves
from .render import CACHE, SIZE, artwork

OUT = CACHE / "vae"


def build() -> AutoencoderKL:
    """Factor 8 as in Stable Diffusion, 16 latent channels, no attention."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def batch_of(pictures: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """`size` pictures in [-1, 1], channels last; a quarter are two half-size pictures side by side."""
    pick = torch.randint(len(pictures), (2, size), generator=generator)
    chosen = pictures[pick[0]]
    pairs = size // 4
    chosen = torch.cat([chosen[pairs:], halves(pictures[pick[0, :pairs]], pictures[pick[1, :pairs]])])
    return (chosen.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def rebuild_loss(vae: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
    scale = 0.05 * posterior.mean.detach().std() * torch.rand(len(x), 1, 1, 1, generator=generator)
    y = vae.decode(z + scale * torch.randn(z.shape, generator=generator)).sample
    gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    # Averages over 2 and 4 pixels: without them edges win and colours run.
    blurred = sum(F.l1_loss(F.avg_pool2d(y, k), F.avg_pool2d(x, k)) for k in (2, 4))
    return F.l1_loss(y, x) + 0.5 * gradients + blurred + 1e-7 * posterior.kl().mean()


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Move the mean and scale of each latent channel into `quant_conv` and `post_quant_conv`."""
    x = torch.cat([batch_of(pictures, torch.Generator().manual_seed(i), 64) for i in range(16)])
    z = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / std
    quant.bias[n:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio of rebuilt pictures, in dB, on 512 fixed draws."""
    x = torch.cat([batch_of(pictures, torch.Generator().manual_seed(10_000 + i), 64) for i in range(8)])
    errors = [
        ((vae.decode(vae.encode(p).latent_dist.mean).sample.clamp(-1, 1) - p) / 2).square().mean() for p in x.split(64)
    ]
    return float(-10 * torch.stack(errors).mean().log10())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=12, help="of each process")
    parser.add_argument("--begin", type=Path, help="autoencoder folder to begin from, with a fresh optimiser")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder, so that latents stay valid")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    pictures = artwork()[0]
    vae = AutoencoderKL.from_pretrained(args.begin, dtype=torch.float32) if args.begin else build()
    vae = vae.to(memory_format=torch.channels_last)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    plan = Plan(args.steps, 1e-3 if args.begin else 2e-3, args.seed, ema=0.998)
    name = "decoder" if args.decoder_only else "autoencoder"
    checkpoint = CACHE / f"{name}-{args.seed}.checkpoint"
    vae = fit(vae, lambda g: rebuild_loss(vae, batch_of(pictures, g, args.batch_size), g), plan, checkpoint)
    if not args.decoder_only:
        fold_statistics(vae, pictures)
    if rank() == 0:
        vae.save_pretrained(OUT)
        print(f"PSNR {psnr(vae, pictures):.2f} dB -> {OUT}")


if __name__ == "__main__":
    main()
