"""The registry of embedded models: each is a folder with a `world.toml`. They share table, captions and judge.

Also how any model is named: a single file together with the folder of its configs is one text, because workers, ledgers
and run.json know a model by its name alone.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import ModelError, require
from ..core.registry import Registry

DEFAULT_MODEL = "moji"
"""The model that is used if the user names none."""
_FOLDER = Path(__file__).parent
_MARK = "?config="  # between a single file and the folder of its configs
JUDGE_WEIGHTS = _FOLDER / "moji" / "judge-first.safetensors"
"""The judge that grades: every scorer of the embedded models uses it."""
METHOD_JUDGE_WEIGHTS = _FOLDER / "moji" / "judge-third.safetensors"
"""A judge of another architecture, through which methods look at pictures: none is graded by what it looked through."""


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
    version: str
    """Of its weights and words. Records name it, and those of another version are refused."""
    sampler: str | None = None
    """Its sampler; None: the one in its files."""
    seen: tuple[str, ...] = ()
    """Report concepts that were looked at while something was chosen or mended."""
    shared: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Parts of the model that another embedded model ships, by part."""
    config: Mapping[str, Mapping[str, object]] = field(default_factory=dict, hash=False)
    """What the configs of shared parts say otherwise in this model, by part."""
    low_rank: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Parts that are another embedded model's plus a low-rank change, `low_rank.safetensors` in this one's part."""
    is_public: bool = True
    """Whether users may name it: false until its weights are there."""

    @property
    def dated_name(self) -> str:
        """Its name in records: NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def shipped_folder(self) -> Path:
        """The folder of its own parts; `worlds.folder` gives a complete one."""
        return _FOLDER / self.name / "model"


worlds: Registry[EmbeddedWorld] = Registry("world")


def embedded_world(model: str | None) -> EmbeddedWorld | None:
    """The embedded model of this name, alone or with its version; None for a user's own model and another version."""
    world, version = _recorded_world(model or "")
    return None if world is None or (version and version != world.version) else world


def outdated_note(recorded: str) -> str:
    """What is wrong with a record's model if it is another version of an embedded one; "" if it is not.

    Records without a version are of the first one.
    """
    world, version = _recorded_world(recorded)
    version = version or "1"
    if world is None or version == world.version:
        return ""
    return f"{world.name}@{version} is not in this package, which has {world.dated_name} with other words and weights"


def _recorded_world(recorded: str) -> tuple[EmbeddedWorld | None, str]:
    """The embedded model that a name means, of any version, and the version that it says, or ""."""
    name, _, version = recorded.partition("@")
    return (worlds[name] if name in set(worlds) else None), version


def with_config(model: str, config: str | Path | None) -> str:
    """Join a single file and the folder of its configs; `ModelError` for a model of another kind."""
    if config is None:
        return model
    message = f"--config {config} goes with --model FILE.safetensors, not with {model or 'no model'}: leave it out"
    require(model.endswith((".safetensors", ".gguf")), message, ModelError)
    return f"{model}{_MARK}{config}"


def split_config(source: str) -> tuple[str, Path | None]:
    """Split a name into the model and the folder of its configs, if one was named."""
    model, _, config = source.partition(_MARK)
    return model, Path(config).expanduser() if config else None


def read_world(path: Path) -> EmbeddedWorld:
    """Read a `world.toml`; its folder names the model."""
    return EmbeddedWorld(path.parent.name, **tomllib.loads(path.read_text(encoding="utf-8")))


for _world in map(read_world, sorted(_FOLDER.glob("*/world.toml"))):
    if _world.is_public:
        worlds.register(_world.name)(_world)
