"""A model by name, with or without an edit file. Plain data, so that a worker process can open it too."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from ...core.hashing import hash_json
from ...edits import Edit, open_edit
from ...models import ModelView, find_model, open_model
from ...models.checkpoint.config import config_folder
from ...models.checkpoint.locations import encoder_files
from ...models.loading import find_device
from ...models.precision import dtype_policy
from ...prompts.checks import Prompt
from ...worlds.registry import DEFAULT_MODEL
from ..sampling import DrawSpec, draw_prompts
from .picture_store import PictureStore, hash_file, hash_folder


@dataclass(frozen=True)
class EditedModel:
    """A model with an edit at some strength or, without an edit file, the unedited model."""

    model: str = DEFAULT_MODEL
    edit_path: str | None = None
    """Path of an edit file."""
    edit_hash: str | None = None
    """Hash of the edit's tensors, since files may move."""
    strength: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    may_be_fixed: bool = False
    """Whether its weights may be quantised."""

    @classmethod
    def of(cls, unedited: "EditedModel", edit: Path, strength: float = 1.0) -> "EditedModel":
        """Make the same model with an edit file."""
        opened = open_edit(edit)
        made = cls(
            unedited.model, str(edit), opened.hash, strength, unedited.device, unedited.dtype, unedited.may_be_fixed
        )
        _edit(str(edit), made.edit_hash)  # It stays open for the tasks to come.
        return made

    @property
    def unedited(self) -> "EditedModel":
        return EditedModel(self.model, device=self.device, dtype=self.dtype, may_be_fixed=self.may_be_fixed)

    @property
    def key(self) -> str:
        """Hash of everything a picture depends on: weights, edit, strength, precision. Not the device."""
        policy = dtype_policy(self.dtype, find_device(self.device))
        dtype = str(policy.computing) if policy.computing == policy.drawing else str(policy)
        edited = [self.edit_hash, self.strength] if self.edit_path and self.strength else None
        return hash_json([_weights(find_model(self.model, self.may_be_fixed)), edited, dtype])

    def base(self) -> ModelView:
        """The model without the edit, opened once per process."""
        return _view(self.model, self.device, self.dtype, self.may_be_fixed)

    def edit(self) -> Edit | None:
        """The edit, scaled to its strength, which the caller has checked."""
        if not self.edit_path or not self.strength:
            return None
        return _edit(self.edit_path, self.edit_hash).scaled(self.strength, amplify=True)

    @contextmanager
    def applied(self) -> Iterator[ModelView]:
        """Inside, the model computes with the edit."""
        view, edit = self.base(), self.edit()
        with edit.applied(view) if edit else nullcontext():
            yield view

    def draw(
        self, prompts: Sequence[Prompt], spec: DrawSpec, store: PictureStore, tick: Callable[[float], None]
    ) -> Tensor:
        """Draw pictures (n, 3, h, w) of prompts that share a guidance scale; the store has none of them yet."""
        with self.applied() as model:
            return draw_prompts(model, prompts, spec.of(prompts[0]), tick)

    def picture_key(self, spec: DrawSpec, prompt: Prompt, found: str | None = None) -> str:
        """Key of one picture. `found` is the hash of an attack's input, if that is drawn instead of the prompt."""
        how = [spec.sampler, spec.steps, spec.of(prompt).guidance_scale]
        return hash_json([self.key, how, prompt.text, prompt.seed, *([found] if found else [])])[:40]


@lru_cache(maxsize=1)  # The difference to a whole checkpoint has gigabytes.
def _edit(path: str, content: str | None) -> Edit:
    """Read an edit file once for all tasks that need it in a row; `content` is its hash."""
    return open_edit(Path(path))


@lru_cache(maxsize=2)
def _view(model: str, device: str, dtype: str, may_be_fixed: bool = False) -> ModelView:
    return open_model(model, device, dtype, may_be_fixed=may_be_fixed)


def _weights(source: Path) -> str:
    return _hashed(source, _files(source))


def _files(source: Path) -> tuple[tuple[str, int, int], ...]:
    held = [source, *encoder_files(source), *config_folder(source).rglob("*")]
    files = sorted(path for path in held if path.is_file())
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@lru_cache(maxsize=16)
def _hashed(source: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """Hash a model's files. `state` is part of the cache key, so that changed files are hashed again."""
    if source.is_dir():
        return hash_folder(source)
    return hash_json([hash_folder(config_folder(source)), *map(hash_file, [source, *encoder_files(source)])])
