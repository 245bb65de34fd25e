"""The embedded models, as data: a folder with a `world.toml` is one. Table, captions and judge are common to all."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..core.registry import Registry

DEFAULT_MODEL = "moji"
"""The model of a user who names none."""
_FOLDER = Path(__file__).parent
JUDGE_WEIGHTS = _FOLDER / "moji" / "judge.safetensors"
"""The network behind every scorer of the embedded models."""


@dataclass(frozen=True)
class EmbeddedWorld:
    """An embedded model and the names of what belongs to it."""

    name: str
    """As users type it after `--model`; also the name of its folder."""
    judge: str
    """The scorer that tells what a picture shows."""
    clip: str
    """The scorer that holds the vision tower beside its text encoder."""
    recipes: str
    """What the names of its recipes begin with, before that of a method or an attack."""
    steps: int
    """Sampling steps that it draws well with."""
    guidance_scale: float
    sampler: str | None = None
    """None: the one in its files."""

    @property
    def model_folder(self) -> Path:
        return _FOLDER / self.name / "model"


worlds: Registry[EmbeddedWorld] = Registry("world")


def embedded_world(model: str) -> EmbeddedWorld | None:
    """The embedded model of that name; None for a model of the user's."""
    return worlds[model] if model in set(worlds) else None


for _file in sorted(_FOLDER.glob("*/world.toml")):
    _name = _file.parent.name
    worlds.register(_name)(EmbeddedWorld(_name, **tomllib.loads(_file.read_text(encoding="utf-8"))))
