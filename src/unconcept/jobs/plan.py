"""What a command would do and about what it would cost: `--dry-run`. Nothing is written, and next to nothing drawn."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.settings import build_settings
from ..erasing.request_defaults import ResolvedRequest
from ..evaluation.judging.choice import NOT_JUDGED_NOTE
from ..evaluation.sampling import DrawSpec, initial_noise
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.worlds import world_of
from ..methods import methods
from ..models import ModelView
from .erase_job import Job, checks_of
from .evaluate_job import EvaluationRun, open_run

_TRAINING_STEP_COST = 5.0  # denoiser passes that a step of training takes, both directions and the teacher included
_ITERATIONS = ("iterations", "max_train_steps", "steps")  # settings that count a training's steps
_ERASURE_FILES = ("edit.safetensors", "run.json")
_REPORT_FILES = ("report.html", "report.json", "results.csv", "README.md", "samples/")


@dataclass(frozen=True)
class RunPlan:
    """The plan of one command."""

    facts: Mapping[str, str]
    """What it would do, by topic."""
    pictures: int
    """Pictures to draw, if the store holds none of them."""
    seconds: float
    """Estimated time to draw them and to train, on this device, from one timed step of the denoiser."""
    files: tuple[str, ...]
    """What it would write."""


def plan_erasure(job: Job) -> RunPlan:
    """Plan an erasure. Raises the errors that `erase` raises for bad input."""
    info = methods[job.method]
    settings: object = build_settings(info.settings, job.settings or {}, f"{job.method} setting")
    chosen = world_of(job.model).request(job.ask, info.does)
    model = EditedModel(job.model, device=job.device, dtype=job.dtype).base()
    step = seconds_of_step(model, job.spec)
    pictures = 2 * len({check.prompt for check in checks_of(job, chosen)}) if job.report else 0
    training = _iterations(settings) if info.mechanism == "trained" else 0
    facts = {
        "model": f"{job.model} ({model.family}), {model.device}, {str(model.dtype).removeprefix('torch.')}",
        "method": f"{job.method} ({info.mechanism}): {_setting_text(settings)}",
        **_request_facts(chosen),
    }
    if training:
        facts["training"] = f"{training} steps"
    seconds = pictures * job.spec.steps * step + training * _TRAINING_STEP_COST / 2 * step
    files = (*_ERASURE_FILES, *(_REPORT_FILES if job.report else ()))
    return RunPlan(facts, pictures, seconds, tuple(str(job.out / name) for name in files))


def plan_run(run: EvaluationRun) -> RunPlan:
    """Plan an evaluation without the time of its attacks. Raises the errors that `evaluate` raises for bad input."""
    opened = open_run(run)
    run, unedited, suite, judge, spec = opened.run, opened.unedited, opened.suite, opened.judge, opened.spec
    prompts = {check.prompt for names in run.requests for check in suite.checks(names)}
    edits = len(run.edits) or len(run.variants) * len(run.requests)
    pictures = len(prompts) * (1 + edits)
    facts = {
        "model": f"{run.model} ({unedited.base().family})",
        "edits": f"{edits} to make" if run.variants else str(edits),
        "suite": f"{suite.name}: {len(prompts)} prompts",
        "judge": NOT_JUDGED_NOTE if judge is None else judge.open().name,
    }
    if suite.attacks:
        facts["attacks"] = f"{', '.join(suite.attacks)}; their searches are not in the estimate"
    seconds = pictures * spec.steps * seconds_of_step(unedited.base(), spec)
    if judge is not None and judge.reader.needs_model:
        facts["judge"] += f": {judge.reader.caveat}"
        seconds += pictures * judge.open().seconds_per_picture()
    files = ("report.html", "report.json", "results.csv", "run.json")
    return RunPlan(facts, pictures, seconds, tuple(str(run.out / name) for name in files))


def seconds_of_step(model: ModelView, spec: DrawSpec) -> float:
    """Time one sampling step of one picture, guidance included, in seconds."""
    noise = initial_noise(0, model.latent_shape)[None]
    times = []
    counts = (1, 1, 3) if model.few_step is None else (spec.steps, spec.steps)  # The first one warms up.
    for steps in counts:
        begun = time.perf_counter()
        model.sample([""], noise, steps, spec.guidance_scale, spec.sampler)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter() - begun)
    return times[-1] / counts[-1] if len(counts) == 2 else max(0.0, times[2] - times[1]) / 2


def _request_facts(chosen: ResolvedRequest) -> dict[str, str]:
    request = chosen.request
    anchors = ", ".join(map(repr, dict.fromkeys(request.anchors))) or "none"
    return {
        "targets": _listed(request.targets),
        "anchors": anchors,
        "retained": _listed(request.retain),
    }


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:5]) or "nothing"
    return shown if len(texts) <= 5 else f"{shown} and {len(texts) - 5} more"


def _iterations(settings: object) -> int:
    found = (getattr(settings, name, None) for name in _ITERATIONS)
    return next((value for value in found if isinstance(value, int)), 0)


def _setting_text(settings: object) -> str:
    values: dict[str, Any] = vars(settings)
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "no settings"
