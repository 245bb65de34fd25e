"""Speed of the sampler as a share of the stock pipeline's, both from the same noise to the same latents.

`python -m benchmarks.sampler_speed`: on one thread, in seconds of the processor, so that nothing else that runs on a
machine counts; calls alternate, and medians are compared.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from unconcept.models import ModelView, open_model
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.schedulers import SAMPLERS, named_scheduler

LEAST = 0.97
PROMPTS = ("a dog face", "a pizza", "a rocket", "a horse")


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def ratio(view: ModelView, name: str, rows: int, steps: int, rounds: int) -> float:
    """The stock pipeline's median time over the sampler's, for a batch of `rows` pictures without their decoding."""
    noise = torch.randn(rows, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(rows)]
    pipeline = view.checkpoint.built_pipeline
    own = pipeline.scheduler

    def ours() -> torch.Tensor:
        sampler = Sampler(view, steps, name)
        return sampler.denoise(sampler.initial_latents(noise), view.guide(prompts, 4.0))

    def theirs() -> torch.Tensor:
        pipeline.scheduler = named_scheduler(name, own)
        asked = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "latent"}
        return pipeline(prompts, latents=noise, **asked).images

    times: dict[Callable[[], torch.Tensor], list[float]] = {ours: [], theirs: []}
    try:
        for _ in range(rounds + 1):
            for work, taken in times.items():
                taken.append(seconds(work))
    finally:
        pipeline.scheduler = own
    return median(times[theirs][1:]) / median(times[ours][1:])


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="moji")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samplers", default="ddim,dpm,euler,lcm", help=f"of {', '.join(SAMPLERS)}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    view, slow = open_model(args.model, "cpu"), False
    for rows in (1, 4):
        for name in args.samplers.split(","):
            found = ratio(view, name, rows, args.steps, args.rounds)
            slow |= found < LEAST
            print(f"{name:16} {rows} pictures  {found:.3f} of the pipeline's speed{'' if found >= LEAST else '  SLOW'}")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
