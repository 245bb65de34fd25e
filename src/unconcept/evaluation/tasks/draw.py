"""Plans and runs the task that draws pictures for a chunk of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...core.hashing import hash_json
from ...core.progress import task_progress
from ...prompts.checks import Prompt
from ..sampling import DrawSpec
from .edited_model import EditedModel
from .picture_store import PictureStore
from .runner import TaskRecord


@dataclass(frozen=True)
class DrawTask:
    """Draws prompts with one edited model and stores the pictures."""

    subject: EditedModel
    spec: DrawSpec
    prompts: tuple[Prompt, ...]
    kind: str = "draw"

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.subject.picture_key(self.spec, prompt) for prompt in self.prompts)

    @property
    def id(self) -> str:
        return hash_json([self.kind, *self.keys])

    @property
    def size(self) -> int:
        return len(self.prompts)

    def is_done(self, store: PictureStore) -> bool:
        return all(store.has(key) for key in self.keys)

    def run(self, store: PictureStore) -> None:
        pictures = self.subject.draw(self.prompts, self.spec, store, task_progress().tick)
        if not bool(torch.isfinite(pictures).all()):
            raise ValueError(f"pictures of {self.subject.edit_path or self.subject.model} hold NaN or infinite numbers")
        for key, picture in zip(self.keys, pictures, strict=True):
            store.save(key, picture)


def plan_draws(
    subject: EditedModel, spec: DrawSpec, prompts: Sequence[Prompt], store: PictureStore, record: TaskRecord
) -> list[DrawTask]:
    """Plan chunks of the pictures that the store lacks. A resumed run keeps its first plan and adds what is missing."""
    by_key = {subject.picture_key(spec, prompt): prompt for prompt in prompts}

    def task(chunk: Sequence[str], kind: str = "draw") -> DrawTask:
        return DrawTask(subject, spec, tuple(by_key[key] for key in chunk), kind)

    name = hash_json(["draw", subject.key, sorted(by_key)])
    chunks = record.plan(
        name, lambda: _chunked_alike([key for key in by_key if not store.has(key)], by_key, spec.batch_size)
    )
    tasks = [task(chunk) for chunk in chunks]  # type: ignore[attr-defined]
    done = record.done([task.id for task in tasks])
    covered = {key for task in tasks if task.id not in done for key in task.keys}
    missing = [key for key in by_key if key not in covered and not store.has(key)]
    open_tasks = [task for task in tasks if task.id not in done or task.is_done(store)]
    return open_tasks + [task(chunk, "redraw") for chunk in _chunked(missing, spec.batch_size)]


def load_pictures(
    subject: EditedModel, spec: DrawSpec, prompts: Sequence[Prompt], store: PictureStore
) -> Mapping[Prompt, Tensor]:
    """Load the pictures that the store has."""
    keys = {prompt: subject.picture_key(spec, prompt) for prompt in prompts}
    return {prompt: store.load(key) for prompt, key in keys.items() if store.has(key)}


def _chunked_alike(keys: Sequence[str], by_key: Mapping[str, Prompt], size: int) -> list[list[str]]:
    """Split prompts into chunks with one guidance scale each."""
    alike: dict[float | None, list[str]] = {}
    for key in keys:
        alike.setdefault(by_key[key].guidance_scale, []).append(key)
    return [chunk for members in alike.values() for chunk in _chunked(members, size)]


def _chunked(items: Sequence[str], size: int) -> list[list[str]]:
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
