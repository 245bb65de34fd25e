"""Train the flow transformer, in FLUX's layout: `torchrun --nproc-per-node 2 -m world.flow`.

Stock `FluxPipeline` draws with it when called with `height=64, width=64, max_sequence_length=32, true_cfg_scale=...`
and a negative prompt. Velocity prediction at logit-normal times, leaning to the noise; 10 % empty captions; EMA.
Rungs climb as in `diffusion.py`. It shares autoencoder and first text encoder with the diffusion model.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .artwork import load
from .captions import PAIRS, Captions
from .loop import Plan, fit
from .place import Place, add_place, normal, place_of, rank, world_hash
from .pool import Pools, Supply, load_clip, load_vae, padded_ids, sample
from .scenes import RUNGS
from .text import T5_WIDTH
from .tokenizer import LENGTH

EMPTY = 0.1  # share of captions left empty, for guidance
LEAN = 0.4  # mean of the times' logits: above 0 noisy times come more often
SHIFT = 1.0  # of the sampler's times
POOLED = 384
SIDE = 8  # of latents


@dataclass(frozen=True)
class FlowTexts:
    """Both text encoders: CLIP's pooled state and T5's states, padding included."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel
    tokenizer_2: T5Tokenizer
    encoder_2: T5EncoderModel

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, ...]:
        """States (n, 32, T5_WIDTH) and pooled (n, POOLED)."""
        coded = self.tokenizer_2(texts, padding="max_length", max_length=LENGTH, truncation=True)
        states = self.encoder_2(torch.tensor(coded["input_ids"], device=self.encoder_2.device)).last_hidden_state
        pooled = self.encoder(padded_ids(self.tokenizer, texts, self.encoder.device)).pooler_output
        return states, pooled


def build(latents: int) -> FluxTransformer2DModel:
    """Double and single blocks of width 256, without embedded guidance."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * latents,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=8,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def packed(z: Tensor) -> Tensor:
    """Latents (n, c, h, w) as tokens of 2 x 2."""
    return FluxPipeline._pack_latents(z, *z.shape)


class Velocity(nn.Module):
    """The velocity that the transformer predicts, in the place's precision."""

    def __init__(self, model: FluxTransformer2DModel, place: Place) -> None:
        super().__init__()
        self.model, self.place = model, place
        places = FluxPipeline._prepare_latent_image_ids(1, SIDE // 2, SIDE // 2, place.device, torch.float32)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("text_places", torch.zeros(LENGTH, 3, device=place.device), persistent=False)

    def forward(self, noisy: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        with self.place.autocast():
            guess = self.model(
                hidden_states=noisy,
                timestep=t,
                pooled_projections=pooled,
                encoder_hidden_states=states,
                txt_ids=self.text_places,
                img_ids=self.places,
                return_dict=False,
            )[0]
        return guess.float()


def flow_loss(predict: nn.Module, pools: Pools, step: int, generator: torch.Generator) -> Tensor:
    """Error of the predicted velocity on one batch."""
    size, device = pools.supply.batch, pools.place.device
    z, (states, pooled) = sample(pools.at(step), size, EMPTY, generator)
    noise = normal(z.shape, generator, device)
    # Stratified: one time in each of the batch's equal bins of the logit-normal.
    bins = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = torch.sigmoid(torch.special.ndtri(bins.clamp(1e-4, 1 - 1e-4)) + LEAN).to(device)
    noisy = torch.lerp(z, noise, t[:, None, None, None])
    return (predict(packed(noisy), t, states, pooled) - packed(noise - z)).square().mean()


def load_texts(folder: Path, place: Place) -> FlowTexts:
    """Both finished encoders, frozen."""
    tokenizer, encoder = load_clip(folder, place)
    encoder_2 = T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32)
    encoder_2 = encoder_2.to(place.device).requires_grad_(False).eval()
    return FlowTexts(tokenizer, encoder, T5Tokenizer.from_pretrained(folder / "tokenizer_2"), encoder_2)


def train(place: Place, plan: Plan, captions: Captions, supply: Supply, begin: Path | None, out: Path) -> bool:
    """Train on one rung and write the stock pipeline folder; whether the plan is complete."""
    torch.manual_seed(plan.seed)
    vae, texts = load_vae(place.state / "vae", place), load_texts(place.state / "text", place)
    if begin:
        model = FluxTransformer2DModel.from_pretrained(begin / "transformer", dtype=torch.float32)
    else:
        model = build(vae.config.latent_channels)
    model = model.to(place.device).train()
    artwork = load(place.data)
    plan = plan.on(world_hash(artwork))
    pools = Pools(captions, artwork, vae, texts, supply, plan.seed, place)
    some = torch.zeros(supply.batch, vae.config.latent_channels, SIDE, SIDE, device=place.device)
    at = torch.zeros(supply.batch, device=place.device)
    predict = place.captured(Velocity(model, place), (packed(some), at, *texts([""] * supply.batch)))
    name = f"flow-{captions.rung}-{plan.seed}"
    trained = fit(model, lambda g, step: flow_loss(predict, pools, step, g), plan, place.state / f"{name}.checkpoint")
    if rank() == 0:
        save(vae, texts, trained.average, out)
        print(f"flow, step {trained.step}, rung {captions.rung} -> {out}", flush=True)
    return trained.is_complete


def save(vae: AutoencoderKL, texts: FlowTexts, model: nn.Module, out: Path) -> None:
    """Write the stock pipeline folder in float32; the autoencoder's config says `shift_factor` 0 there."""
    vae.register_to_config(shift_factor=0.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    clip, t5 = (texts.encoder, texts.tokenizer), (texts.encoder_2, texts.tokenizer_2)
    FluxPipeline(scheduler, vae, *clip, *t5, model).save_pretrained(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rung", type=int, choices=RUNGS, default=0)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--pool", type=int, default=12_000, help="scenes of each process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--pairs", type=float, default=PAIRS, help="share of captions of two objects")
    parser.add_argument("--begin", type=Path, help="diffusers folder to begin from, with a fresh optimiser")
    parser.add_argument("--out", type=Path, help="folder of the pipeline; `flow` in the state folder by default")
    add_place(parser)
    args = parser.parse_args(argv)
    place = place_of(args)
    captions = Captions(concept_table(), scene_words(), args.rung, pairs=args.pairs)
    plan = Plan(args.steps, args.lr, args.seed, minutes=args.minutes)
    supply = Supply(args.batch_size, args.pool)
    train(place, plan, captions, supply, args.begin, args.out or place.state / "flow")


if __name__ == "__main__":
    main()
