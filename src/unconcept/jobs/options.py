"""What commands may be told: groups of options, used by jobs, the Python API and the command line alike.

Each field is documented by the string under it, which is also the help of its flag. Nothing heavy is imported here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..core.text_files import read_lines
from ..worlds.registry import DEFAULT_MODEL

Texts = str | Sequence[str]
Paths = str | Path | Sequence[str | Path]
ModelSource = Any  # a name, a path, or in the Python API a diffusers pipeline in memory


@dataclass(frozen=True)
class Flag:
    """How the command line spells a field, where that does not follow from the field itself."""

    name: str | None = None
    """Unless told, the field's name with dashes. A switch that starts with --no- turns a field off."""
    kind: type | None = None
    """What one word on the command line is read as; unless told, the field's type."""
    repeats: bool = False
    """Whether the flag may be given several times."""
    assigns: bool = False
    """Whether each word is NAME=VALUE."""
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    position: int | None = None
    """Of an argument, which has no flag; smaller ones come first."""
    help: str | None = None
    """Unless told, the string under the field."""
    show_default: bool = True


@dataclass(frozen=True)
class PythonOnly:
    """Marks a field that no flag sets."""


CONCEPTS_ARGUMENT = Flag(kind=str, repeats=True, position=1, show_default=False)
SETTINGS_FLAG = Flag("--set", str, repeats=True, assigns=True, metavar="NAME=VALUE")
REGULARISERS_FLAG = Flag("--regulariser", str, repeats=True, assigns=True, metavar="NAME=VALUE")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which model."""

    model: Annotated[ModelSource, Flag(kind=str)] = DEFAULT_MODEL
    """moji, a diffusers folder, a .safetensors file or a cached Hub id."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SourceOptions):
    """Which model, where it computes and in what."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """auto, float64, float32, bfloat16 or float16: what the model computes in."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How pictures are drawn."""

    batch_size: Annotated[int, Flag(least=1, most=1024)] = 24
    """Pictures drawn at once."""
    seed: int = 0
    """Seed of the initial noise."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Who judges pictures, and how many of them."""

    judge: Annotated[str | None, Flag(show_default=False)] = None
    """clip-score=FOLDER or nudenet; moji has its own."""
    limit: Annotated[int | None, Flag(least=1)] = None
    """Prompts of a group at most."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How long a run may take, on how many processes, and where pictures are kept."""

    max_minutes: Annotated[float | None, Flag(least=0)] = None
    """Begin nothing more after this; the same command goes on."""
    workers: Annotated[int | None, Flag(least=1, show_default=False)] = None
    """Processes that draw; as many as pay by default."""
    store: Annotated[Path | None, PythonOnly()] = None
    """Folder of pictures and scores that runs share; unless told, that of `UNCONCEPT_STORE`."""


@dataclass(frozen=True, kw_only=True)
class OverwriteOptions:
    """Whether what is there may be replaced."""

    overwrite: Annotated[bool, Flag("--overwrite")] = False
    """Replace the output folder if this program made it."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(OverwriteOptions):
    """Where results are written."""

    out: Path
    """Folder to write; it must not exist."""


@dataclass(frozen=True, kw_only=True)
class StrengthOptions:
    """How strongly an edit acts."""

    strength: float = 1.0
    """Scale of the edit: 0 = identity, 1 = as made."""


@dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """Which concepts, typed or one a line of a file."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """What to erase; one or several."""
    concepts_file: Annotated[Path | None, Flag("--concepts")] = None
    """File with one more concept a line."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*texts(self.concepts), *read_lines(self.concepts_file))


@dataclass(frozen=True, kw_only=True)
class AnchorOptions:
    """What a request says besides its concepts. None means "you choose", an empty tuple "none"."""

    anchors: Annotated[Texts | None, Flag("--anchor", str, repeats=True)] = None
    """What to read it as: one, or one a concept; '' is legal."""
    retain: Annotated[Texts | None, Flag("--retain", str, repeats=True)] = None
    """Text that must not change; repeatable."""
    kind: str | None = None
    """object, style, person, character, harmful or explicit."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions(ConceptOptions, AnchorOptions):
    """A whole request."""

    retain_file: Path | None = None
    """File with one retained text a line."""

    @property
    def retained(self) -> tuple[str, ...] | None:
        """All retained texts; None where nothing was said of them."""
        if self.retain is None and self.retain_file is None:
            return None
        return (*texts(self.retain or ()), *read_lines(self.retain_file))


@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """A recipe, and settings that differ from it."""

    recipe: str | None = None
    """Recipe by name, or a .toml file."""
    settings: Annotated[Mapping[str, object] | None, SETTINGS_FLAG] = None
    """One setting of the method; repeatable."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(SettingOptions):
    """Which method, and how it is set."""

    method: Annotated[str | None, Flag(show_default=False)] = None
    """Method; see `unconcept methods`.  [default: uce]"""
    regularisers: Annotated[Mapping[str, object] | None, REGULARISERS_FLAG] = None
    """For trained methods: l1sp, l2sp, selft_topk, projection (update or gradient); repeatable."""


@dataclass(frozen=True, kw_only=True)
class TrainingChoices:
    """What is said of a training; None leaves it to the recipe, and then to the defaults of `TrainingOptions`."""

    mixed_precision: Annotated[str | None, Flag(show_default=False)] = None
    """What a trained method's networks compute in: no, bf16 or fp16.  [default: no]"""
    checkpointing: Annotated[bool | None, Flag("--checkpointing", show_default=False)] = None
    """Train in less memory and a third more time."""
    random_erasing: Annotated[float | None, Flag(metavar="P", show_default=False)] = None
    """Train with a rectangle of each sample erased, with this probability."""
    dom: Annotated[float | None, Flag(metavar="SHARE", show_default=False)] = None
    """Leave out training steps whose loss fell below this share of its first."""


def texts(given: Texts) -> tuple[str, ...]:
    """One text or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def paths(given: Paths) -> tuple[Path, ...]:
    """One path or several, as a tuple."""
    return (Path(given),) if isinstance(given, str | Path) else tuple(map(Path, given))
