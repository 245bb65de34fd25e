"""Trainings against plain transcriptions of the published loops, in one run and on one thread: `python -m
benchmarks.training`.

The rivals stand in `benchmarks/rivals.py`; what makes the difference is taken away cause by cause. Seconds are CPU
seconds; tensors are those of the denoiser, its copies, gradients and optimizer when a step has its gradients.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.rivals import CAUSES, REQUEST, Plain, ablation, esd, spm
from benchmarks.taken import Taken, gauged
from unconcept.core.recipe import load_recipe
from unconcept.core.settings import build_settings
from unconcept.edits import Edit
from unconcept.methods.concept_ablation import ConceptAblation
from unconcept.methods.esd import ESD
from unconcept.methods.spm import SPM
from unconcept.models import ModelView, open_model
from unconcept.models.views.unet import UNetView
from unconcept.training import TrainingSession, training_session


@dataclass(frozen=True)
class Recipes:
    """What is measured, as it is trained on `moji`."""

    esd: ESD = field(default_factory=lambda: build_settings(ESD, load_recipe("moji-esd").settings))
    spm: SPM = field(default_factory=lambda: build_settings(SPM, load_recipe("moji-spm").settings))
    ablation: ConceptAblation = field(
        default_factory=lambda: build_settings(ConceptAblation, load_recipe("moji-concept-ablation").settings)
    )


def ours(model: ModelView, method: ESD | ConceptAblation | SPM) -> tuple[Taken, Edit]:
    """The library's own, told of after each step; what was drawn in between is taken off."""
    begun, ends = time.process_time(), list[float]()
    with (
        gauged(model, method.iterations) as gauge,
        training_session(TrainingSession(lambda _: ends.append(time.process_time() - gauge.trajectories.seconds))),
    ):
        edit = method.erase(model, REQUEST)
    steps = [after - before for before, after in pairwise(ends)]
    return Taken(time.process_time() - begun, statistics.median(steps), gauge.tensors), edit


def wide(tokens: object) -> UNetView:
    """Random weights in the shape of SD 1.4's denoiser and text encoder at 16 x 16
    latents, with a small autoencoder.
    """
    torch.manual_seed(0)
    net = UNet2DConditionModel(sample_size=16, cross_attention_dim=768)  # diffusers' other defaults are SD 1.x's
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    )
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(
        down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(32,) * 4, latent_channels=4
    )
    rule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokens, net, rule, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for part in (net, vae, pipe.text_encoder):
        part.eval()
    return UNetView.from_pipeline(pipe, "SD 1.4 wide")


def compared(title: str, rivals: dict[str, Taken], own: Taken) -> None:
    """The update alone: each cause's seconds and how many times ours they are; tensors last."""
    print(f"\n{title}: one update, x_t given")
    for name, taken in {**rivals, "ours": own}.items():
        print(
            f"  {name:40} {taken.update:8.3f} s  {taken.update / own.update:5.2f} x ours "
            f" {taken.tensors / 2**20:8.0f} MiB"
        )
    print(f"  tensors, ours of plain: {own.tensors / rivals['plain'].tensors:.2f}")


def updates(model: ModelView, recipes: Recipes, steps: int) -> None:
    method = replace(recipes.esd, iterations=steps, ddim_steps=2)
    plain = {name: esd(model, method, how)[0] for name, how in CAUSES.items()}
    compared(f"ESD-x on {model.name}", plain, ours(model, method)[0])
    adapting = replace(recipes.spm, iterations=steps, max_denoising_steps=2)
    plain = {name: spm(model, adapting, how) for name, how in CAUSES.items()}
    compared(f"SPM on {model.name}", plain, ours(model, adapting)[0])
    ablating = replace(
        recipes.ablation,
        iterations=steps,
        target_model="frozen",
        pictures=recipes.ablation.batch_size,
        picture_steps=1,
        augment=False,
    )
    plain = {name: ablation(model, ablating, how) for name, how in list(CAUSES.items())[:-1]}
    compared(f"Concept Ablation (keys and values, frozen target) on {model.name}", plain, ours(model, ablating)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="updates to take the median of")
    parser.add_argument("--only", choices=("whole", "moji", "wide"))
    parser.add_argument("--iterations", type=int, help="of the whole training; the recipe's by default")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/training"),
        help="folder for both edits of the whole training, and what the judge says",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(device="cpu")
    model.modules("denoiser")  # Builds the networks, which are read when they are first needed.
    recipes = Recipes()
    if args.only in (None, "whole"):
        method = recipes.esd if args.iterations is None else replace(recipes.esd, iterations=args.iterations)
        (own, edit), (plain, other) = ours(model, method), esd(model, method, Plain())
        print(
            f"whole ESD-x on moji, {method.iterations} steps: plain {plain.whole:.1f} s, ours {own.whole:.1f} s,"
            f" {plain.whole / own.whole:.1f} times"
        )
        print(judged(model, {"plain": other, "ours": edit}, args.out))
    if args.only in (None, "moji"):
        updates(model, recipes, args.steps)
    if args.only in (None, "wide"):
        updates(wide(model.pipeline.tokenizer), recipes, args.steps)


def judged(model: ModelView, edits: dict[str, Edit], out: Path) -> str:
    """A table of what both edits leave and keep, beside the unedited model."""
    from unconcept.edits.origin import origin_for
    from unconcept.evaluation.trials.variants import variant_rows
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun
    from unconcept.report.markdown import results_table

    files = tuple(out / f"{name}.safetensors" for name in edits)
    out.mkdir(parents=True, exist_ok=True)
    for file, edit in zip(files, edits.values(), strict=True):
        edit.stamped(origin_for(edit, model, REQUEST, "esd", {})).save(file)
    run = EvaluationRun(REQUEST.targets, out / "judged", edits=files, suite="results", device="cpu", overwrite=True)
    return results_table(variant_rows(evaluate(run).findings))


if __name__ == "__main__":
    main()
