"""Train the diffusion model on the finished autoencoder and text encoder: `torchrun --nproc-per-node 2 -m
world.diffusion`.

Noise prediction, scaled-linear betas, truncated min-SNR weights, 10 % empty captions, EMA. `--rung` is how much of a
scene is left to chance; the next rung begins from the weights of the one below (`--begin FOLDER`, warms up again).
`--without CONCEPT...` trains a reference that never saw them.
"""

import argparse
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
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import SIZE, load
from .captions import PAIRS, Captions
from .loop import Plan, fit
from .place import Place, add_place, normal, place_of, rank, world_hash
from .pool import Pools, Supply, load_clip, load_vae, padded_ids, sample
from .scenes import RUNGS

BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
SKEW = 0.65  # below 1, noisy timesteps come more often: there a picture is decided by its caption alone
EMPTY = 0.1  # share of captions left empty, for guidance
SNR = (1.0, 5.0)  # bounds of a timestep's weight on the picture's error: min-SNR 5, truncated at 1, see `README.md`
NOISING = DDPMScheduler(**BETAS)
RATIOS = NOISING.alphas_cumprod / (1 - NOISING.alphas_cumprod)  # signal to noise
CHANNELS = (128, 240)
TEXT_WIDTH = 384


def build(latents: int, side: int, channels: tuple[int, ...] = CHANNELS) -> UNet2DConditionModel:
    """Two levels for latents of 8 x 8, with cross-attention on both."""
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latents,
        out_channels=latents,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=16,
    )


@torch.no_grad()
def read_states(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]) -> tuple[Tensor, ...]:
    """All states of each caption, padding included, as the pipeline hands them over."""
    return (encoder(padded_ids(tokenizer, texts, encoder.device)).last_hidden_state,)


class Noise(nn.Module):
    """The noise that the UNet predicts, in the place's precision."""

    def __init__(self, unet: UNet2DConditionModel, place: Place) -> None:
        super().__init__()
        self.unet, self.place = unet, place

    def forward(self, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
        with self.place.autocast():
            return self.unet(noisy, t, states).sample.float()


def noise_loss(predict: nn.Module, pools: Pools, step: int, generator: torch.Generator) -> Tensor:
    """Weighted error of the predicted noise on one batch."""
    size, device = pools.supply.batch, pools.place.device
    z, (states,) = sample(pools.at(step), size, EMPTY, generator)
    noise = normal(z.shape, generator, device)
    # Stratified timesteps: one in each of the batch's equal bins, which steadies the gradient.
    bins = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = (bins**SKEW * len(RATIOS)).long()
    noisy = NOISING.add_noise(z, noise, t.to(device))
    error = (predict(noisy, t.to(device), states) - noise).square().mean((1, 2, 3))
    return (error * (RATIOS[t].clamp(*SNR) / RATIOS[t]).to(device)).mean()


def train(place: Place, plan: Plan, captions: Captions, supply: Supply, begin: Path | None, out: Path) -> bool:
    """Train on one rung and write the stock pipeline folder; whether the plan is complete."""
    vae = load_vae(place.state / "vae", place)
    tokenizer, encoder = load_clip(place.state / "text", place)
    side = SIZE // 2 ** (len(vae.config.block_out_channels) - 1)
    torch.manual_seed(plan.seed)
    if begin:
        unet = UNet2DConditionModel.from_pretrained(begin / "unet", dtype=torch.float32)
    else:
        unet = build(vae.config.latent_channels, side)
    unet = unet.to(place.device).train()
    if place.bfloat16 and place.device == "cpu":
        unet.set_attn_processor(AttnProcessor())  # The fused attention's backward pass is slow in bfloat16.
    read = partial(read_states, tokenizer, encoder)
    artwork = load(place.data)
    plan = plan.on(world_hash(artwork), captions.without)
    pools = Pools(captions, artwork, vae, read, supply, plan.seed, place)
    some = torch.zeros(supply.batch, vae.config.latent_channels, side, side, device=place.device)
    at, states = torch.zeros(supply.batch, dtype=torch.long, device=place.device), read([""] * supply.batch)[0]
    predict = place.captured(Noise(unet, place), (some, at, states))
    name = "-".join(["diffusion", str(captions.rung), str(plan.seed), *sorted(captions.without)]).replace(" ", "_")
    trained = fit(unet, lambda g, step: noise_loss(predict, pools, step, g), plan, place.state / f"{name}.checkpoint")
    if rank() == 0:
        save(vae, encoder, tokenizer, trained.average, out)
        print(f"diffusion, step {trained.step}, rung {captions.rung} -> {out}", flush=True)
    return trained.is_complete


def save(vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: nn.Module, out: Path) -> None:
    """Write the stock pipeline folder in float32; `world.ship` halves it."""
    spacing = {"steps_offset": 1, "timestep_spacing": "leading"}
    scheduler = DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver++", **spacing)
    parts = (vae, encoder, tokenizer, unet, scheduler)
    pipeline = StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)
    pipeline.save_pretrained(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rung", type=int, choices=RUNGS, default=0)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--pool", type=int, default=12_000, help="scenes of each process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--pairs", type=float, default=PAIRS, help="share of captions of two objects")
    parser.add_argument("--begin", type=Path, help="diffusers folder to begin from, with a fresh optimiser")
    parser.add_argument("--without", nargs="+", default=(), metavar="CONCEPT", help="concepts the model must never see")
    parser.add_argument("--out", type=Path, help="folder of the pipeline; `model` in the state folder by default")
    add_place(parser)
    args = parser.parse_args(argv)
    place = place_of(args)
    without = frozenset(concept_table()[name].name for name in args.without)
    captions = Captions(concept_table(), scene_words(), args.rung, without, args.pairs)
    plan = Plan(args.steps, args.lr, args.seed, minutes=args.minutes)
    supply = Supply(args.batch_size, args.pool)
    train(place, plan, captions, supply, args.begin, args.out or place.state / "model")


if __name__ == "__main__":
    main()
