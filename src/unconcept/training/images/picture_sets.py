"""Pictures that a training forgets, and those that it retains, as latents with their prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...core.errors import DataError, RequestError, require
from ...core.hashing import hash_tensors
from ...core.request import Request
from ...core.seeds import numbered_seed, picture_seeds
from ...models import ModelView
from ...models.images import of_one_colour, read_picture_folder
from ...models.text.state_rows import fits_context, sentences_that_fit
from ...prompts.captions import load_captions
from ...prompts.safety import require_drawable
from ...prompts.templates import open_sentences
from ...prompts.text_matching import without_names
from ..budget import number_in_turn, training_budget
from ..session import draw_or_rehearse
from ..trajectories import GuidedSampler
from .training_images import generate_images, images_to_latents, refuse_blank_pictures, take_in_turn

_RETAIN_ORDER = 1  # numbers the order of the retained pictures among those drawn from one seed


class DrawingSettings(Protocol):
    """Settings of methods that draw pictures, by the names that they have there."""

    @property
    def picture_steps(self) -> int:
        """Sampling steps."""

    @property
    def picture_guidance(self) -> float:
        """Guidance scale."""

    @property
    def seed(self) -> int:
        """Seed."""


class PictureSettings(DrawingSettings, Protocol):
    """Settings of methods that unlearn pictures."""

    @property
    def pictures(self) -> int:
        """Pictures of the targets, for up to four of them."""

    @property
    def retain_pictures(self) -> int:
        """Pictures of the retain set; 0: none."""

    @property
    def images(self) -> str:
        """A user's folder of pictures of the target; "": the model draws them."""

    @property
    def retain_prompts(self) -> str:
        """Captions that are retained beside the request's texts: a packaged set or a file."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences around a concept; (): the thirty of its kind."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their prompts; those of a target also with the prompt that names its anchor instead."""

    latents: Tensor  # (n, c, h, w)
    prompts: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    seed: int = 0  # of the order

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def hash(self) -> str:
        """Hash of the pictures."""
        return hash_tensors({"latents": self.latents})

    def steps_of_pass(self, rows: int) -> int:
        """Return the steps of `rows` pictures in which each picture comes at least once."""
        return -(-len(self) // rows)

    def in_turn(self, step: int, rows: int) -> list[int]:
        """Return the numbers of a step's pictures: all take turns, each turn in its own random order."""
        return [number_in_turn(row, len(self), self.seed) for row in range(step * rows, (step + 1) * rows)]

    def batch(self, step: int, rows: int) -> tuple[Tensor, list[str]]:
        """Return the latents of a step's pictures, and their prompts."""
        which = self.in_turn(step, rows)
        return self.latents[which], [self.prompts[i] for i in which]


def check_picture_settings(name: str, settings: PictureSettings) -> None:
    """Raise `SettingsError` if a setting of the pictures is out of range."""
    for field, least in (("pictures", 1), ("picture_steps", 1), ("retain_pictures", 0), ("picture_guidance", 0)):
        value = getattr(settings, field)
        require(value >= least, f"{name}: {field} must be >= {least}, got {value}")


def draw_pictures(model: ModelView, prompts: Sequence[str], settings: DrawingSettings) -> PictureSet:
    """Draw a picture of each prompt with the current model. Raises `DataError` if all show nothing."""
    seeds = picture_seeds(settings.seed, len(prompts))
    pictures = generate_images(model, prompts, seeds, settings.picture_steps, settings.picture_guidance)
    refuse_blank_pictures(pictures, prompts)
    return PictureSet(images_to_latents(model, pictures).to(model.dtype), tuple(prompts), seed=settings.seed)


def draw_latents(
    model: ModelView, prompts: Sequence[str], count: int, steps: int, guidance_scale: float, seed: int
) -> PictureSet:
    """Draw `count` pictures with the current model, at least one of each prompt; they are never decoded.

    Raises `RequestError` for a prompt that is never drawn.
    """
    require_drawable(prompts)
    shown = take_in_turn([list(prompts)], max(count, len(prompts)))
    walk, seeds = GuidedSampler.of(model, steps, guidance_scale), picture_seeds(seed, len(shown))

    @torch.no_grad()
    def draw(part: slice, steps: int) -> Tensor:
        return walk.denoise_steps(walk.initial_latents(seeds[part]), shown[part], 0, steps)

    return PictureSet(draw_or_rehearse(model, len(shown), steps, draw), tuple(shown), seed=seed)


def draw_forget_and_retain_sets(
    method: str, model: ModelView, request: Request, settings: PictureSettings
) -> tuple[PictureSet, PictureSet]:
    """Return the pictures of the targets, the user's or the model's own, and pictures of the retain set.

    Each target has a picture, and the retain set as many as it may. The second set is empty without `retain_pictures`.
    Raises `RequestError` if there is nothing to retain, `DataError` if a picture shows nothing.
    """
    pairs, kept = _target_prompts(method, model, request, settings), _retained_prompts(method, model, request, settings)
    own: Tensor | None = None
    if settings.images:
        own = read_picture_folder(Path(settings.images), model, 1)
        pairs = take_in_turn([pairs], len(own))
    drawn = [*([] if settings.images else [target for target, _ in pairs]), *kept]
    seeds = picture_seeds(settings.seed, len(drawn))
    made = generate_images(model, drawn, seeds, settings.picture_steps, settings.picture_guidance) if drawn else None
    pictures = torch.cat([part for part in (own, made) if part is not None])
    _refuse_blank(method, pictures[: len(pairs)])
    latents = images_to_latents(model, pictures).to(model.dtype)
    forget = PictureSet(latents[: len(pairs)], tuple(p for p, _ in pairs), tuple(a for _, a in pairs), settings.seed)
    return forget, PictureSet(latents[len(pairs) :], tuple(kept), seed=numbered_seed(settings.seed, _RETAIN_ORDER))


def _target_prompts(
    method: str, model: ModelView, request: Request, settings: PictureSettings
) -> list[tuple[str, str]]:
    """Pair prompts of the targets, in turn, with the same prompts of their anchors: one pair for each picture."""
    forms, groups = open_sentences(method, request, settings.templates), []
    for target, anchor in zip(request.targets, request.anchors, strict=True):
        held = sentences_that_fit(model, forms, target, anchor)
        groups.append([(form.replace("{}", target), form.replace("{}", anchor)) for form in held])
    count = max(training_budget(settings.pictures, len(groups)), len(groups))
    return take_in_turn(groups, count)


def _retained_prompts(method: str, model: ModelView, request: Request, settings: PictureSettings) -> list[str]:
    """Choose the prompts of the retained pictures: texts in random order, each in its own sentence."""
    if not settings.retain_pictures:
        return []
    forms, groups = open_sentences(method, request, settings.templates), list[list[str]]()
    for text in request.retain:
        groups.append([form.replace("{}", text) if text else "" for form in forms])
    groups += [[text] for text in without_names(load_captions(settings.retain_prompts), request.targets)]
    found = []
    for group in groups:
        held = [text for text in group if fits_context(model, text)]
        if held:
            found.append(held)
    message = (
        f"{method} needs a retain set, and this request has none: name texts with --retain, or captions with --set"
        " retain_prompts=everyday"
    )
    require(bool(found), message, RequestError)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return take_in_turn([found[i] for i in order], settings.retain_pictures)


def _refuse_blank(method: str, pictures: Tensor) -> None:
    """Refuse a model that draws nothing of the targets."""
    message = f"{method}: all {len(pictures)} pictures that the model draws of the targets are of one colour"
    require(
        not bool(of_one_colour(pictures).all()),
        f"{message}: it cannot draw them; give pictures with --set images=FOLDER",
        DataError,
    )
