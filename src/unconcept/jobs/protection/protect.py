"""Protects pictures against personalisation: changed copies within a budget, their figures, and a page."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import OutputError, RecipeError, SettingsError, require
from ...core.hashing import hash_tensors
from ...core.output_folder import RUN_FILE, atomic_file, atomic_folder, default_store
from ...core.progress import ProgressCallback, ignore_progress
from ...core.settings import build_settings
from ...evaluation.judging.judge import open_scorer, require_path_as_taken
from ...evaluation.protection.given_pictures import GivenPicture, read_given_pictures
from ...evaluation.protection.preparation import prepare
from ...evaluation.protection.proof import name_without_folders
from ...evaluation.sampling import require_text_length
from ...evaluation.tasks.edited_model import EditedModel
from ...evaluation.worlds import recipe_settings, world_of
from ...models import ModelView
from ...models.families import undefined_for
from ...models.images import read_picture
from ...prompts.safety import require_drawable
from ...protection import Protection, ProtectionCase, ProtectionInfo, protect_picture, protections
from ...report.environment import command_line, run_environment
from ...report.images import to_image
from ...report.protection_page import ProtectedPicture, ProtectionPage, write_protection_page
from ...scorers import scorers
from ...training.perturbation.budget import ChangeBudget, psnr
from ...training.perturbation.learning_loss import LearningLoss
from ...worlds.recipes import current_recipe
from ..options import paths
from .options import ProtectOptions
from .proof import OpenProof, open_proof, proof_identity, run_proof

FIGURES_FILE, PAGE_FILE = "protection.json", "report.html"
_HELD_OUT_SEED, _HELD_OUT_SAMPLES, _HELD_OUT_DRAWS = 2**40 + 1, 8, 4  # of the loss in figures; no --seed is as large


@dataclass(frozen=True)
class ProtectOutcome:
    """The result of `protect`."""

    out: Path
    pictures: tuple[ProtectedPicture, ...]
    notes: tuple[str, ...]
    """What there is to say of the copies: what they lack."""
    proof: Mapping[str, Any] | None = None
    """What learners made of them, with --prove."""


@dataclass(frozen=True)
class OpenProtect:
    """Pictures, model and protection, checked."""

    subject: EditedModel
    info: ProtectionInfo
    protection: Protection
    budget: ChangeBudget
    given: Sequence[GivenPicture]
    identity: dict[str, object]
    """What identifies the output: an interrupted run with the same identity continues."""
    proof: OpenProof | None = None
    """What is learned and how copies are recognised, with --prove."""

    @property
    def model(self) -> ModelView:
        """The model against whose users the pictures are protected."""
        return self.subject.base()


def open_protect(options: ProtectOptions) -> OpenProtect:
    """Open pictures, model and protection. Bad input raises `UsageError`."""
    info, settings = protections[options.method], _settings_of(options)
    protection: Protection = build_settings(info.settings, settings, f"{info.name} setting")
    require_drawable([options.text])
    budget = open_budget(options.distance, options.budget, options.psnr)
    subject = EditedModel(str(options.model), device=options.device, dtype=options.dtype)
    model = subject.base()
    message = undefined_for(info.name, model.family, info.families)
    require(model.family in info.families, message, SettingsError)
    require_text_length(model, [options.text])
    given = read_given_pictures(paths(options.pictures), model)
    inside = [one.path for one in given if one.path.resolve().is_relative_to(options.out.resolve())]
    named = ", ".join(map(str, inside[:1]))
    message = f"--out {options.out} holds {named}, which it would replace: choose another folder"
    require(not inside, message, OutputError)
    identity: dict[str, object] = {
        "pictures": {one.copy_name: hash_tensors({"picture": one.picture}) for one in given},
        "protection": [info.name, str(protection)],
        "budget": budget.record,
        "text": options.text,
        "seed": options.seed,
        "model": subject.key,
    }
    proof = open_proof(options, subject, given) if options.prove else None
    return OpenProtect(subject, info, protection, budget, given, identity | proof_identity(options), proof)


def open_budget(distance: str, most: float, least_psnr: float) -> ChangeBudget:
    """The budget in a named distance, NAME or NAME=FILE; `UsageError` for a scorer that is none."""
    name, _, path = distance.partition("=")
    known = [one for one in scorers if scorers[one].reads == "pair"]
    message = f"--distance {name}: it measures no distance of two pictures; known are {', '.join(known)}"
    require(scorers[name].reads == "pair", message)
    require_path_as_taken(distance, "--distance", "FILE, torchvision's AlexNet")
    opened = open_scorer(name, path or None)
    return ChangeBudget(opened.compare, opened.name, opened.hash, most, least_psnr)


def protect(
    options: ProtectOptions,
    progress: ProgressCallback = ignore_progress,
    announce: Callable[[OpenProtect], None] = lambda opened: None,
) -> ProtectOutcome:
    """Write a protected copy of each picture, figures and a page. The pictures themselves are left as they are.

    `announce` is called before anything is written.
    """
    started = time.perf_counter()
    opened = open_protect(options)
    announce(opened)
    with atomic_folder(options.out, opened.identity, options.overwrite) as folder:
        _write_copies(opened, options, folder, progress)
        rows = [_figures(opened, options.text, one, read_picture(folder / one.copy_name)) for one in opened.given]
        notes, proof = _notes(opened.given), None
        if opened.proof is not None:
            proof = run_proof(opened.proof, torch.stack([row.after for row in rows]), folder, progress)
        run = run_environment(opened.model, {"total": time.perf_counter() - started})
        shown = {**run, "command": command_line(with_folders=False)}
        info, budget, title = opened.info, opened.budget, name_without_folders(opened.model.name)
        limit = (budget.name, budget.most, budget.least_psnr)
        page = ProtectionPage(info.name, info.role, title, *limit, rows, notes, shown, proof)
        write_protection_page(page, folder / PAGE_FILE)
        _write_json(folder / FIGURES_FILE, _data(page))
        _write_json(folder / RUN_FILE, run)
    return ProtectOutcome(options.out, tuple(rows), notes, proof)


def _settings_of(options: ProtectOptions) -> Mapping[str, object]:
    """The settings: a recipe's, that of the model's world if none is named, then those of --set."""
    if options.recipe is None:
        given = recipe_settings(world_of(str(options.model)), options.method)
    else:
        recipe = current_recipe(options.recipe)
        message = f"recipe {options.recipe} is for the {recipe.owner}, not for the protection {options.method}"
        require(recipe.protection == options.method, f"{message}: leave out one of the two", RecipeError)
        given = recipe.settings
    return {**given, **(options.settings or {})}


def _write_copies(opened: OpenProtect, options: ProtectOptions, folder: Path, progress: ProgressCallback) -> None:
    """Write the copies that an interrupted run did not write yet, one by one."""
    store, total = options.store or default_store(), len(opened.given)
    left = [one for one in opened.given if not (folder / one.copy_name).exists()]
    progress("protect", total - len(left), total)
    if not left:
        return
    prepared = prepare(opened.protection, opened.subject, opened.budget, options.text, options.seed, store)
    for done, one in enumerate(left, total - len(left) + 1):
        case = ProtectionCase(opened.model, one.picture, opened.budget, options.text, options.seed, prepared)
        changed = protect_picture(opened.protection, case)
        with atomic_file(folder / one.copy_name) as part:
            to_image(changed).save(part, "PNG")
        progress("protect", done, total)


def _figures(opened: OpenProtect, text: str, one: GivenPicture, after: Tensor) -> ProtectedPicture:
    loss = LearningLoss(opened.model, text, _HELD_OUT_SAMPLES)
    before = one.picture
    losses = [loss.held_out(side, _HELD_OUT_SEED, _HELD_OUT_DRAWS) for side in (before, after)]
    decibels = float(psnr(before[None], after[None]))
    distance = float(opened.budget.distance(before[None], after[None]))
    return ProtectedPicture(
        one.copy_name, before, after, distance, decibels if math.isfinite(decibels) else None, *losses
    )


def _notes(given: Sequence[GivenPicture]) -> tuple[str, ...]:
    notes = ["Copies are PNG files: saving them as JPEG, or scaling them, weakens the protection."]
    stripped = [one.path.name for one in given if one.has_metadata]
    if stripped:
        notes.append(f"EXIF and other data beside the pixels were dropped: {len(stripped)} of {len(given)} had some.")
    return tuple(notes)


def _data(page: ProtectionPage) -> dict[str, Any]:
    """The figures as plain data."""
    return {
        "method": page.method,
        "role": page.role,
        "model": page.model,
        "budget": {"distance": page.distance, "most": page.most, "least_psnr": page.least_psnr},
        "pictures": [one.data() for one in page.pictures],
        "notes": list(page.notes),
        "proof": page.proof,
    }


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
