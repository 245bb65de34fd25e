"""Pictures per second of the harness against a plain diffusers loop that draws the same pictures one prompt at a time.

`python -m benchmarks.throughput`: both in one run; the loop gets the thread count that is best for it here.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import StableDiffusionPipeline

from unconcept.core.request import RequestSpec
from unconcept.edits import Edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.sampling import DrawSpec, initial_noise
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.tasks.draw import load_pictures, plan_draws
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.tasks.runner import TaskRecord, run_tasks
from unconcept.models import find_model
from unconcept.prompts.checks import GroupSizes, Prompt

TRIED = 6  # pictures to find the best thread count with


def loop(
    pipeline: StableDiffusionPipeline, prompts: list[Prompt], spec: DrawSpec, shape: tuple[int, int, int]
) -> torch.Tensor:
    """What one would write: for each prompt, call the pipeline."""
    drawn = []
    for prompt in prompts:
        start = initial_noise(prompt.seed, shape)[None]
        drawn.append(
            pipeline(
                prompt.text,
                latents=start,
                num_inference_steps=spec.steps,
                guidance_scale=spec.guidance_scale,
                output_type="pt",
            ).images[0]
        )
    return torch.stack(drawn)


def seconds(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@torch.no_grad()
def add_edit(pipeline: StableDiffusionPipeline, edit: Edit) -> None:
    """Write an edit into the weights of a stock pipeline."""
    for name in edit.names:
        weight = pipeline.unet.get_parameter(name.removeprefix("unet."))
        weight += edit.delta(name, weight)


def choose_threads(cores: int, work) -> None:
    """Set the number of threads with which some work is fastest."""
    paces = {}
    for threads in range(1, cores + 1):
        torch.set_num_threads(threads)
        paces[threads] = seconds(work)
    torch.set_num_threads(min(paces, key=paces.__getitem__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--concept", default="dog face")
    args = parser.parse_args()
    cores, spec = os.cpu_count() or 1, DrawSpec()
    prompts = list(dict.fromkeys(check.prompt for check in group_checks([args.concept], GroupSizes(400, 400))))[
        : args.pictures
    ]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        edit = make_edit(
            EditedModel().base(),
            resolve_request(RequestSpec((args.concept,)), "moji"),
            "uce",
            variant_of_method("uce").settings,
        )
        edit.save(root / "edit.safetensors")
        subject, store, record = (
            EditedModel.of(EditedModel(), root / "edit.safetensors"),
            PictureStore(root / "store"),
            TaskRecord(root / "record.sqlite"),
        )
        ours = seconds(
            lambda: run_tasks(plan_draws(subject, spec, prompts, store, record), store, record, workers=cores)
        )
        kept = load_pictures(subject, spec, prompts, store)
        model = subject.base()
        pipeline = StableDiffusionPipeline.from_pretrained(
            find_model("moji"), local_files_only=True, dtype=torch.float32
        )
        pipeline.set_progress_bar_config(disable=True)
        add_edit(pipeline, edit)
        choose_threads(cores, lambda: loop(pipeline, prompts[:TRIED], spec, model.latent_shape))
        begun = time.perf_counter()
        plain = loop(pipeline, prompts, spec, model.latent_shape)
        theirs = time.perf_counter() - begun
        apart = (torch.stack([kept[prompt] for prompt in prompts]) - plain).abs().max()
    n = len(prompts)
    print(f"{n} pictures, {cores} cores, largest difference {float(apart):.4f} (8 bits round by 0.0020)")
    print(f"harness, starting its workers included: {ours:.1f} s, {n / ours:.2f} pictures/s")
    print(
        f"loop, best of {cores} thread counts ({torch.get_num_threads()}): {theirs:.1f} s, {n / theirs:.2f} pictures/s"
    )
    print(f"ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
