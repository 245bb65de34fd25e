"""The main job: edit a model, check that it worked, draw before and after from the same noise, judge, report."""

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NumericsError, SettingsError, require
from ..core.hashing import hash_tensors
from ..core.request import Ask, Request
from ..core.settings import build, dump
from ..edits import Edit, Origin, origin_of
from ..methods import Method, methods
from ..models import ModelView, open_model
from ..models.open import MOJI
from ..moji.table import table
from ..scorers.moji_judge import MojiJudge
from .folder import building, check_free
from .generate import Spec, draw
from .judging import Answer, key, words
from .pictures import load_chunk, save_chunk
from .prompts import Check, Sizes, moji_checks, plain_checks
from .report import Report, write_report
from .requests import Chosen, choose

Progress = Callable[[str, int, int], None]  # what is done, how many of how many


@dataclass(frozen=True)
class Job:
    """Everything `unconcept erase` may be told; None means the default."""

    ask: Ask
    out: Path
    method: str = "uce"
    settings: Mapping[str, Any] | None = None
    model: str = MOJI
    device: str = "auto"
    dtype: str = "auto"
    strength: float = 1.0
    report: bool = True
    overwrite: bool = False
    sizes: Sizes = Sizes()
    spec: Spec = Spec()
    recipe: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out: the report, and what failed, if anything did."""

    report: Report
    failures: tuple[str, ...]


def make_edit(model: ModelView, chosen: Chosen, method: str, settings: Mapping[str, Any]) -> Edit:
    """Run a method and stamp the edit with where it comes from."""
    info = methods[method]
    hyperparameters: Method = build(info.settings, settings, f"{method} setting")
    message = f"{method} is not defined for {model.family} models, only for {', '.join(info.families)}"
    require(model.family in info.families, message, SettingsError)
    edit = hyperparameters.erase(model, chosen.request)
    return edit.stamped(_origin(edit, model, chosen.request, method, dump(hyperparameters)))


def _origin(edit: Edit, model: ModelView, request: Request, method: str, settings: dict[str, Any]) -> Origin:
    return Origin(
        method=method,
        settings=settings,
        targets=request.targets,
        anchors=request.anchors,
        retain=request.retain,
        kind=request.kind,
        family=model.family,
        base=Path(model.name).name,
        base_hash=hash_tensors(model.reference(edit.names)),
        version=version("unconcept"),
        report=effect(edit, model, request),
    )


@torch.no_grad()
def effect(edit: Edit, model: ModelView, request: Request) -> dict[str, float]:
    """Exact figures without a picture, over the text maps the edit changes, worst text of each kind.

    `residual`: how far a target is still read from its anchor, 0 = as the anchor, 1 = unchanged.
    `drift`: how far a retained text's reading moved, relative to its size. `relative_norm`: of the weights' change.
    """
    maps = {name: w for name, w in model.text_maps().items() if name in set(edit.names)}
    targets, anchors, retain = (model.embed(texts).float() for texts in (request.targets, request.anchors, request.retain))
    sums = {name: torch.zeros(n) for name, n in (("left", len(targets)), ("gap", len(targets)), ("moved", len(retain)), ("size", len(retain)))}
    change = weight = 0.0
    for name, w in maps.items():
        w, delta = w.float().to(targets.device), edit.delta(name).float().to(targets.device)
        wanted = (anchors - targets) @ w.T
        sums["gap"] += wanted.square().sum(1).cpu()
        sums["left"] += (wanted - targets @ delta.T).square().sum(1).cpu()
        sums["moved"] += (retain @ delta.T).square().sum(1).cpu()
        sums["size"] += (retain @ w.T).square().sum(1).cpu()
        change, weight = change + float(delta.square().sum()), weight + float(w.square().sum())
    figures = {"relative_norm": (change / weight) ** 0.5 if weight else 0.0}
    if len(targets):
        figures["residual"] = float((sums["left"] / sums["gap"].clamp_min(1e-30)).sqrt().max())
    if len(retain):
        figures["drift"] = float((sums["moved"] / sums["size"].clamp_min(1e-30)).sqrt().max())
    return figures


def erase(job: Job, progress: Progress = lambda what, done, of: None) -> Outcome:
    """Do the whole job. Bad input raises `UsageError` before anything is written."""
    started = time.perf_counter()
    check_free(job.out, job.overwrite)
    require(job.strength == job.strength and abs(job.strength) < 100, f"strength {job.strength}: give a number, 0 = identity, 1 = as made", SettingsError)
    info, settings = methods[job.method], dict(job.settings or {})
    hyperparameters = dump(build(info.settings, settings, f"{job.method} setting"))
    chosen = choose(job.ask, job.model)
    model = open_model(job.model, job.device, job.dtype)
    progress("edit", 0, 1)
    edit = make_edit(model, chosen, job.method, settings)
    if job.strength != 1.0:
        edit = edit.scaled(job.strength)
        edit = edit.stamped(replace(origin_of(edit), report=effect(edit, model, chosen.request)))
    seconds = {"edit": time.perf_counter() - started}
    progress("edit", 1, 1)
    failures = _weight_failures(edit, job.strength)
    identity = {"edit": edit.hash, "sizes": str(job.sizes), "spec": str(job.spec), "report": job.report, "model": job.model}
    with building(job.out, identity, job.overwrite) as folder:
        edit.save(folder / "edit.safetensors")
        answers: list[Answer] = []
        pictures: dict[str, tuple[Tensor, Tensor]] = {}
        checks = _checks(job, chosen) if job.report else []
        if checks:
            pictures, seconds_drawn = _draw_both(model, edit, checks, job.spec, folder, progress)
            seconds |= seconds_drawn
            failures += _picture_failures(pictures)
            answers = _judge(checks, pictures) if job.model == MOJI else []
        seconds["total"] = time.perf_counter() - started
        report = Report(edit, chosen, hyperparameters, checks, answers, job.spec, _circumstances(model, seconds), job.recipe, tuple(failures))
        write_report(report, pictures, folder, job.report)
    return Outcome(report, tuple(failures))


def _checks(job: Job, chosen: Chosen) -> list[Check]:
    if job.model == MOJI:
        return moji_checks(table(), [concept.name for concept in chosen.concepts], job.sizes)
    return plain_checks(chosen.concepts, chosen.request.retain, job.sizes)


def _draw_both(
    model: ModelView, edit: Edit, checks: Sequence[Check], spec: Spec, folder: Path, progress: Progress
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Pictures before and after by prompt key. Finished chunks are kept, so an interrupted run draws none twice."""
    prompts = list({key(check): check.prompt for check in checks}.items())
    sides: list[list[Tensor]] = [[], []]
    seconds = {}
    for side, name in enumerate(("before", "after")):
        begun = time.perf_counter()
        for start in range(0, len(prompts), spec.batch_size):
            part = [prompt for _, prompt in prompts[start : start + spec.batch_size]]
            chunk = load_chunk(folder, name, start)
            if chunk is None:
                if side:
                    with edit.applied(model):
                        chunk = draw(model, part, spec)
                else:
                    chunk = draw(model, part, spec)
                save_chunk(folder, name, start, chunk)
            sides[side].append(chunk)
            progress(f"draw {name}", min(start + len(part), len(prompts)), len(prompts))
        seconds[f"draw_{name}"] = time.perf_counter() - begun
    both = zip(torch.cat(sides[0]), torch.cat(sides[1]), strict=True)
    return {name: pair for (name, _), pair in zip(prompts, both, strict=True)}, seconds


def _judge(checks: Sequence[Check], pictures: Mapping[str, tuple[Tensor, Tensor]]) -> list[Answer]:
    judge = MojiJudge()
    before, after = (words(judge, checks, {name: pair[side] for name, pair in pictures.items()}) for side in (0, 1))
    return [Answer(*row) for row in zip(checks, before, after, strict=True)]


def _weight_failures(edit: Edit, strength: float) -> list[str]:
    if not all(bool(torch.isfinite(edit.delta(name)).all()) for name in edit.names):
        raise NumericsError("the edit holds non-finite numbers: use a larger lamb, or --dtype float32")
    figures = origin_of(edit).report
    if strength and figures.get("relative_norm", 0.0) == 0.0:
        return ["no effect: the edit changes no weight"]
    if strength and figures.get("residual", 0.0) > 0.99:
        return [f"no effect: a target is still read as before (residual {figures['residual']:.3f})"]
    return []


def _picture_failures(pictures: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Collapse: pictures that became one flat colour, or hold no numbers."""
    flat = [sum(float(pair[side].std()) < 0.02 for pair in pictures.values()) for side in (0, 1)]
    if not all(bool(torch.isfinite(pair[1]).all()) for pair in pictures.values()):
        return ["collapse: pictures hold non-finite numbers"]
    if flat[1] > flat[0] + len(pictures) // 4:
        return [f"collapse: {flat[1]} of {len(pictures)} pictures are blank, {flat[0]} before the edit"]
    return []


def _circumstances(model: ModelView, seconds: Mapping[str, float]) -> dict[str, Any]:
    libraries = {name: version(name) for name in ("unconcept", "torch", "diffusers", "transformers", "safetensors", "tokenizers")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "libraries": {**libraries, "python": platform.python_version()},
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak,
    }
