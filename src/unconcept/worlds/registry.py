"""The registry of embedded models: each is a folder with a `world.toml`. They share table, captions and judge.

Also how any model is named: a single file together with the folder of its configs is one text, because workers, ledgers
and run.json know a model by its name alone.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ModelError, require
from ..core.registry import Registry

DEFAULT_MODEL = "moji"
"""The model that is used if the user names none."""
_FOLDER = Path(__file__).parent
_MARK = "?config="  # between a single file and the folder of its configs
JUDGE_WEIGHTS = _FOLDER / "moji" / "judge.safetensors"
"""The network that every scorer of the embedded models uses."""


@dataclass(frozen=True)
class EmbeddedWorld:
    """An embedded model, with the names of its scorers and recipes."""

    name: str
    """As users type it after `--model`; also the name of its folder."""
    judge: str
    """The scorer that recognises what a picture shows."""
    clip: str
    """The scorer with the vision tower that belongs to its text encoder."""
    recipes: str
    """Prefix of the names of its recipes, before the name of a method or an attack."""
    steps: int
    """Sampling steps that give good pictures."""
    guidance_scale: float
    sampler: str | None = None
    """Its sampler; None: the one in its files."""
    seen: tuple[str, ...] = ()
    """Report concepts that were looked at while something was chosen or mended."""

    @property
    def model_folder(self) -> Path:
        return _FOLDER / self.name / "model"


worlds: Registry[EmbeddedWorld] = Registry("world")


def embedded_world(model: str) -> EmbeddedWorld | None:
    """The embedded model of this name; None for a user's own model."""
    return worlds[model] if model in set(worlds) else None


def with_config(model: str, config: str | Path | None) -> str:
    """Join a single file and the folder of its configs; `ModelError` for a model of another kind."""
    if config is None:
        return model
    message = f"--config {config} goes with --model FILE.safetensors, not with {model or 'no model'}: leave it out"
    require(model.endswith(".safetensors"), message, ModelError)
    return f"{model}{_MARK}{config}"


def split_config(source: str) -> tuple[str, Path | None]:
    """Split a name into the model and the folder of its configs, if one was named."""
    model, _, config = source.partition(_MARK)
    return model, Path(config).expanduser() if config else None


for _file in sorted(_FOLDER.glob("*/world.toml")):
    _name = _file.parent.name
    worlds.register(_name)(EmbeddedWorld(_name, **tomllib.loads(_file.read_text(encoding="utf-8"))))
