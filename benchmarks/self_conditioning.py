"""A small denoiser with and without self-conditioning (DDAE++, arXiv:2505.10999), on scikit-learn's digits: `python -m
benchmarks.self_conditioning`.

Both arms have the same weights, batches, timesteps and noise. Layer and timestep of a probe are chosen on digits that
neither the denoiser nor the reported accuracy sees. Each training is kept, so the same command goes on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from benchmarks.classifier_data import digits
from unconcept.core.hashing import hash_json
from unconcept.core.source import source_hash
from unconcept.linalg.logistic import fit_logistic
from unconcept.models.hooks.forward import record_outputs
from unconcept.models.hooks.self_conditioning import SelfConditioning, self_conditioned

ARMS = ("plain", "self-conditioned")
SEEDS = (0, 1, 2)
STEPS, BATCH, RATE = 1000, 128, 1e-3
WIDTHS = (32, 64)
LAYERS = ("mid_block", "up_blocks.0", "up_blocks.1")
TIMESTEPS = (1, 26, 51, 101, 201)  # of 1,000
SECONDS = 120  # of one training and its probes, on one core
TEXT = """# Self-conditioning

A UNet of {parameters:,} parameters learns the noise in scikit-learn's digits (8x8, no classes given) in {steps} steps,
without and with the self-conditioning of DDAE++ (arXiv:2505.10999): the pooled features of its middle block, mapped by
{added:,} more parameters, are added to the decoder's time embedding. Means of {seeds} splits, each in brackets; both
arms of a split have the same weights, batches and noise. A linear probe reads the features with one constant noise for
all; its layer and timestep are chosen on a quarter of the digits that train it. Settings were not tuned.
Made by `python -m benchmarks.self_conditioning`.

"""


@dataclass(frozen=True)
class Figures:
    """What one training reached on the test digits."""

    loss: float
    """Mean squared error of the predicted noise."""
    accuracy: float
    """Of the probe that was best on the digits held out for it."""
    layer: str
    timestep: int


def noised(schedule: DDPMScheduler, x: Tensor, t: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    noise = torch.randn(x.shape, generator=rng)
    return schedule.add_noise(x, noise, t), noise


def train(arm: str, x: Tensor, steps: int, seed: int) -> tuple[UNet2DModel, SelfConditioning]:
    """Train a denoiser on images (n, 1, 8, 8) in [-1, 1]."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    conditioning, schedule = SelfConditioning(WIDTHS[-1], 4 * WIDTHS[0]), DDPMScheduler()
    rule = torch.optim.Adam([*unet.parameters(), *conditioning.parameters()], lr=RATE)
    rng = torch.Generator().manual_seed(seed)
    with under(arm, unet, conditioning):
        for step in range(steps):
            rows = torch.randint(len(x), (BATCH,), generator=rng)
            t = torch.randint(len(schedule), (BATCH,), generator=rng)
            seen, noise = noised(schedule, x[rows], t, rng)
            loss = (unet(seen, t).sample - noise).square().mean()
            rule.param_groups[0]["lr"] = RATE * (1 - step / steps)
            rule.zero_grad()
            loss.backward()
            rule.step()
    return unet.eval(), conditioning


def under(arm: str, unet: UNet2DModel, conditioning: SelfConditioning) -> AbstractContextManager[None]:
    return nullcontext() if arm == "plain" else self_conditioned(unet, conditioning)


@torch.no_grad()
def pooled(unet: UNet2DModel, x: Tensor, t: int) -> dict[str, Tensor]:
    """Features of each layer, averaged over places: (n, c)."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *x.shape[1:], generator=rng).expand_as(x)
    steps = torch.full((len(x),), t)
    seen = DDPMScheduler().add_noise(x, noise, steps)
    found = {}
    for layer in LAYERS:
        with record_outputs(unet.get_submodule(layer)) as outputs:
            unet(seen, steps)
        found[layer] = outputs[0].double().mean((2, 3))
    return found


def probe(train_rows: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Predictions of a linear probe on standardised features."""
    mean, scale = train_rows.mean(0), train_rows.std(0).clamp(min=1e-8)
    weight, bias = fit_logistic((train_rows - mean) / scale, labels, 10, 1.0)
    return (((rows - mean) / scale) @ weight.T + bias).argmax(1)


@torch.no_grad()
def test_loss(unet: UNet2DModel, x: Tensor) -> float:
    rng, schedule, errors = torch.Generator().manual_seed(0), DDPMScheduler(), []
    for t in range(25, len(schedule), 50):
        steps = torch.full((len(x),), t)
        seen, noise = noised(schedule, x, steps, rng)
        errors.append((unet(seen, steps).sample - noise).square().mean().item())
    return statistics.mean(errors)


def measured(arm: str, seed: int, steps: int) -> Figures:
    split = digits(seed)
    x, rest = 2 * split.train.x - 1, 2 * split.test.x - 1
    unet, conditioning = train(arm, x, steps, seed)
    fit = 3 * len(x) // 4
    with under(arm, unet, conditioning):
        chosen, best = (LAYERS[0], TIMESTEPS[0]), -1.0
        for t in TIMESTEPS:
            for layer, rows in pooled(unet, x, t).items():
                own = probe(rows[:fit], split.train.y[:fit], rows[fit:])
                hits = (own == split.train.y[fit:]).double().mean().item()
                chosen, best = max((chosen, best), ((layer, t), hits), key=lambda one: one[1])
        layer, t = chosen
        found = probe(pooled(unet, x, t)[layer], split.train.y, pooled(unet, rest, t)[layer])
        accuracy = (found == split.test.y).double().mean().item()
        return Figures(test_loss(unet, rest), accuracy, layer, t)


def kept(arm: str, seed: int, steps: int, folder: Path) -> Figures:
    """The figures of a training, from its file if the same code made it."""
    key = hash_json([source_hash("benchmarks.self_conditioning"), steps])
    path = folder / f"{arm}-{seed}.json"
    if path.exists() and (known := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        return Figures(**known["figures"])
    found = measured(arm, seed, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key, "figures": asdict(found)}), encoding="utf-8")
    return found


def page(found: dict[str, Sequence[Figures]], steps: int) -> str:
    unet, conditioning = train(ARMS[1], torch.zeros(1, 1, 8, 8), 0, 0)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (unet, conditioning)]
    text = TEXT.format(parameters=sizes[0], added=sizes[1], steps=f"{steps:,}", seeds=len(SEEDS))
    lines = ["| | error of the noise | probe's accuracy | layer, timestep |", "| --- | --- | --- | --- |"]
    for arm, own in found.items():
        loss, accuracy = [one.loss for one in own], [100 * one.accuracy for one in own]
        where = "; ".join(f"{one.layer}, {one.timestep}" for one in own)
        cells = f"{_mean(loss, 4)} | {_mean(accuracy, 1)} %"
        lines.append(f"| {arm} | {cells} | {where} |")
    return text + "\n".join(lines) + "\n"


def _mean(values: Sequence[float], digits_: int) -> str:
    each = ", ".join(f"{value:.{digits_}f}" for value in values)
    return f"{statistics.mean(values):.{digits_}f} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("out/self-conditioning"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = len(ARMS) * len(SEEDS)
    print(f"{runs} trainings, about {runs * SECONDS * args.steps / STEPS / 60:.0f} minutes of one core", flush=True)
    found: dict[str, list[Figures]] = {arm: [] for arm in ARMS}
    for seed, arm in product(SEEDS, ARMS):
        begun = time.process_time()
        found[arm].append(kept(arm, seed, args.steps, args.out))
        print(f"{arm}, split {seed}: {found[arm][-1]}, {time.process_time() - begun:.0f} s", flush=True)
    text = page(found, args.steps)
    (args.docs / "self-conditioning.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
