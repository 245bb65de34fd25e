"""Train the diffusion model on the finished autoencoder and text encoder: `torchrun --nproc-per-node 2 -m
world.diffusion`.

Noise prediction, scaled-linear betas, min-SNR weights, 10 % empty captions, EMA. `--without CONCEPT...` trains a
reference that never saw them. A round that starts from the shipped weights (`--begin FOLDER`) warms up again.
"""

import argparse
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.worlds.table import concept_table

from .captions import PAIRS, Captions, Draw
from .loop import Plan, fit, rank
from .pictures import halves
from .render import CACHE, artwork

OUT = CACHE / "model"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SKEW = 0.65  # below 1, noisy timesteps come more often: there a picture is decided by its caption alone
EMPTY = 0.1  # share of captions left empty, for guidance
# Bounds of a timestep's weight on the picture's error: min-SNR 5, truncated at 1, see `world/README.md`.
SNR = (1.0, 5.0)


def build() -> UNet2DConditionModel:
    """Two levels, 8x8 and 4x4, both with cross-attention."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(128, 240),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=384,
        attention_head_dim=8,
        norm_num_groups=16,
    )


class Pool:
    """Captions with their finished text states and latents, drawn and encoded once, used many times.

    `states` (n, 32, d) and `latents` (n, 16, 8, 8) are float16; pairs are put together in pixels and then encoded.
    """

    def __init__(
        self, captions: Captions, vae: AutoencoderKL, read: Callable[[list[str]], Tensor], size: int, seed: int
    ) -> None:
        pictures, index = artwork()
        rng = random.Random(seed)
        draws = [captions.draw(rng) for _ in range(size)]
        chunks = [draws[i : i + 64] for i in range(0, size, 64)]
        self.states = torch.cat([read([draw.text for draw in chunk]).half() for chunk in chunks])
        self.empty = read([""]).half()
        self.latents = torch.cat(
            [_encode(vae, [_picture(draw, pictures, index) for draw in chunk]).half() for chunk in chunks]
        )


def _picture(draw: Draw, pictures: Tensor, index: dict[tuple[str, str], int]) -> Tensor:
    sides = [pictures[index[drawing]][None] for drawing in draw.drawings]
    return (sides[0] if len(sides) == 1 else halves(*sides))[0]


@torch.no_grad()
def _encode(vae: AutoencoderKL, pictures: list[Tensor]) -> Tensor:
    return vae.encode(torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--pool", type=int, default=20_000, help="captions of each process")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--pairs", type=float, default=PAIRS, help="share of two-object pictures")
    parser.add_argument("--begin", type=Path, help="diffusers folder to begin from, with a fresh optimiser")
    parser.add_argument("--without", nargs="+", default=(), metavar="CONCEPT", help="concepts the model must never see")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    captions = Captions(concept_table(), frozenset(concept_table()[name].name for name in args.without), args.pairs)
    start = args.begin or CACHE
    vae = AutoencoderKL.from_pretrained(start / "vae", dtype=torch.float32).requires_grad_(False).eval()
    texts = start if args.begin else CACHE / "text"
    tokenizer = CLIPTokenizer.from_pretrained(texts / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(texts / "text_encoder", dtype=torch.float32).requires_grad_(False).eval()
    unet = UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32) if args.begin else build()
    unet = unet.train()
    read = partial(_read, tokenizer, encoder)
    pool = Pool(captions, vae, read, args.pool, 1_000 * args.seed + rank())
    noising = DDPMScheduler(**BETAS)
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)

    def loss(generator: torch.Generator) -> Tensor:
        size = args.batch_size
        pick = torch.randint(args.pool, (size,), generator=generator)
        z, states = pool.latents[pick].float(), pool.states[pick].float()
        states[torch.rand(size, generator=generator) < EMPTY] = pool.empty.float()
        noise = torch.randn(z.shape, generator=generator)
        # Stratified timesteps: one in each of the batch's equal bins, which steadies the gradient.
        bins = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        t = (bins**SKEW * len(snr)).long()
        noisy = noising.add_noise(z, noise, t)
        error = (unet(noisy, t, states).sample - noise).square().mean((1, 2, 3))
        return (error * snr[t].clamp(*SNR) / snr[t]).mean()

    name = "-".join(["diffusion", str(args.seed), *sorted(captions.without)]).replace(" ", "_")
    trained = fit(unet, loss, Plan(args.steps, args.lr, args.seed), CACHE / f"{name}.checkpoint")
    if rank() == 0:
        save(vae, encoder, tokenizer, trained, args.out)


@torch.no_grad()
def _read(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    return encoder(torch.tensor(tokenizer(texts, padding="max_length")["input_ids"])).last_hidden_state


def save(
    vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: torch.nn.Module, out: Path
) -> None:
    """Write the stock pipeline folder in float32; `world.ship` halves it."""
    scheduler = DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", steps_offset=1, timestep_spacing="leading"
    )
    pipeline = StableDiffusionPipeline(
        vae, encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(out)
    print(f"pipeline -> {out}")


if __name__ == "__main__":
    main()
