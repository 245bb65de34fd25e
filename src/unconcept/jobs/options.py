"""Groups of options that jobs, the Python API and the command line share. Nothing heavy is imported here.

The string under a field is also the help of its flag.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ..core.seeds import SEED_BOUND, check_seed
from ..prompts.lists import read_texts
from ..worlds.registry import DEFAULT_MODEL, with_config

Texts = str | Sequence[str]
Paths = str | Path | Sequence[str | Path]
ModelSource = Any  # a name, a path, or in the Python API a diffusers pipeline in memory


@dataclass(frozen=True)
class Flag:
    """How a field appears on the command line, where that does not follow from the field itself."""

    name: str | None = None
    """Name of the flag; by default the field's name with dashes. A switch that starts with --no- turns a field off."""
    kind: type | None = None
    """Type of one word on the command line; by default the field's type."""
    repeats: bool = False
    """Whether the flag may appear several times."""
    assigns: bool = False
    """Whether each word is NAME=VALUE."""
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    position: int | None = None
    """Position of an argument, which has no flag; smaller ones come first."""
    help: str | None = None
    """Help text; by default the string under the field."""
    show_default: bool = True


@dataclass(frozen=True)
class PythonOnly:
    """Marks a field that no flag sets."""


CONCEPTS_ARGUMENT = Flag(kind=str, repeats=True, position=1, show_default=False)
SETTINGS_FLAG = Flag("--set", str, repeats=True, assigns=True, metavar="NAME=VALUE")
REGULARISERS_FLAG = Flag("--regulariser", str, repeats=True, assigns=True, metavar="NAME=VALUE")


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """The base of groups of options that are checked when they are built: a command may have several."""

    def __post_init__(self) -> None:
        """Each group calls the next one's check."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(CheckedOptions):
    """The model."""

    help_group: ClassVar[str] = "model"

    model: Annotated[ModelSource, Flag(kind=str)] = DEFAULT_MODEL
    """Model: moji, moji-flow, a diffusers folder, a .safetensors file or a Hub id (OWNER/NAME@REVISION pins it)."""
    config: Path | None = None
    """For a .safetensors file: diffusers folder with its configs; SD 1.x to 3.5 and SDXL need none."""

    def __post_init__(self) -> None:
        join_config(self)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class EditBaseOptions(CheckedOptions):
    """The model, for commands that are given an edit."""

    help_group: ClassVar[str] = "model"

    model: Annotated[ModelSource, Flag(kind=str, show_default=False)] = None
    """Model, as for `erase`.  [default: the model that the edit was made for, or moji without an edit]"""
    config: Path | None = None
    """As for `erase`."""

    def __post_init__(self) -> None:
        join_config(self)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The device and the data type of the model."""

    help_group: ClassVar[str] = "model"

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """Data type: float64, float32, bfloat16, float16, or auto: float32, on CUDA float16 while pictures are drawn."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DeviceOptions, SourceOptions):
    """The model, its device and its data type."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions(CheckedOptions):
    """How pictures are drawn."""

    help_group: ClassVar[str] = "pictures"

    batch_size: Annotated[int, Flag(least=1, most=1024)] = 24
    """Pictures drawn at once."""
    seed: Annotated[int, Flag(least=0, most=SEED_BOUND - 1)] = 0
    """Seed of the initial noise."""

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The judge, and how many pictures it judges."""

    help_group: ClassVar[str] = "pictures"

    judge: Annotated[str | None, Flag(show_default=False)] = None
    """Judge: diffusion-classifier (the model's own word), clip-score=FOLDER or =HUB-ID, diffusion-probe=FOLDER (of
    labelled pictures), vlm=FOLDER, nudenet; moji has its own."""
    limit: Annotated[int | None, Flag(least=1)] = None
    """Most prompts per group."""
    store_pictures: Annotated[bool, Flag("--store-pictures")] = False
    """Keep the pictures of an explicit concept too; without it only their scores stay."""


@dataclass(frozen=True, kw_only=True)
class MethodJudgeOptions:
    """The judge of methods that look at pictures."""

    method_judge: Annotated[str | None, Flag(show_default=False)] = None
    """Judge that uce-debias and slug may ask, never the one that grades.  [default: an embedded model's own]"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Time limit, processes, cluster and picture store of a run."""

    help_group: ClassVar[str] = "run"

    max_minutes: Annotated[float | None, Flag(least=0)] = None
    """Start no new task after this time; run the same command again to continue."""
    workers: Annotated[int | None, Flag(least=1, show_default=False)] = None
    """Number of processes that draw; by default chosen by the amount of work. With --ray, the most on the cluster."""
    ray: Annotated[str | None, Flag(metavar="[ADDRESS]", show_default=False)] = None
    """Run on a Ray cluster: HOST:PORT of its head, `auto` for that of this machine; alone, one that it starts here."""
    ray_gpus: Annotated[float | None, Flag(least=0, metavar="SHARE", show_default=False)] = None
    """With --ray: GPUs of each worker, or a share of one such as 0.5.  [default: 1 if the cluster has any]"""
    store: Annotated[str | Path | None, Flag(kind=str, metavar="FOLDER|URL", show_default=False)] = None
    """Pictures and scores that runs and machines share, a folder or fsspec URL.  [default: UNCONCEPT_STORE or cache]"""


@dataclass(frozen=True, kw_only=True)
class OverwriteOptions:
    """Whether existing output may be replaced."""

    help_group: ClassVar[str] = "output"

    overwrite: Annotated[bool, Flag("--overwrite")] = False
    """Replace the output folder if this program made it."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(OverwriteOptions):
    """The output folder."""

    help_group: ClassVar[str] = "output"
    out: Path
    """Folder to write; it must not exist."""


@dataclass(frozen=True, kw_only=True)
class StrengthOptions:
    """The strength of an edit."""

    help_group: ClassVar[str] = "edit"

    strength: float = 1.0
    """Scale of the edit: 0 = no effect, 1 = as made."""
    amplify: Annotated[bool, Flag("--amplify")] = False
    """Allow a negative strength, with which a model draws more of what the edit erases."""


@dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """The concepts, typed or from a file."""

    help_group: ClassVar[str] = "request"

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """Concepts to erase; one or several."""
    concepts_file: Annotated[Path | None, Flag("--concepts")] = None
    """File with more concepts: one per line, a table with a column concept, or a JSON list."""

    @property
    def names(self) -> tuple[str, ...]:
        """All concepts, typed ones first."""
        return (*texts(self.concepts), *read_texts(self.concepts_file))


@dataclass(frozen=True, kw_only=True)
class AnchorOptions:
    """Anchors, retain set and kind of a request. None means the default, an empty tuple means none."""

    help_group: ClassVar[str] = "request"

    anchors: Annotated[Texts | None, Flag("--anchor", str, repeats=True)] = None
    """Anchor, the text that a concept should read as: one for all, or one per concept; may be ''."""
    retain: Annotated[Texts | None, Flag("--retain", str, repeats=True)] = None
    """Text that must not change; repeatable."""
    kind: str | None = None
    """Kind of concept: object, style, person, character, harmful or explicit."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions(ConceptOptions, AnchorOptions):
    """A complete request."""

    help_group: ClassVar[str] = "request"

    retain_file: Path | None = None
    """File with texts that must not change: one per line, a table with a column concept or text, or a JSON list."""

    @property
    def retained(self) -> tuple[str, ...] | None:
        """All retained texts; None if neither option is given."""
        if self.retain is None and self.retain_file is None:
            return None
        return (*texts(self.retain or ()), *read_texts(self.retain_file))


@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """A recipe, and settings that override it."""

    help_group: ClassVar[str] = "method"

    recipe: str | None = None
    """Name of a recipe, or a .toml file."""
    settings: Annotated[Mapping[str, object] | None, SETTINGS_FLAG] = None
    """One setting of the method; repeatable."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(SettingOptions):
    """The method and its settings."""

    help_group: ClassVar[str] = "method"

    method: Annotated[str | None, Flag(show_default=False)] = None
    """Method; see `unconcept methods`.  [default: uce]"""
    regularisers: Annotated[Mapping[str, object] | None, REGULARISERS_FLAG] = None
    """For trained methods: l1sp, l2sp, selft_topk, projection (update or gradient); repeatable."""


@dataclass(frozen=True, kw_only=True)
class TrainingChoices:
    """Options of a training; None means the recipe's value, else the default of `TrainingOptions`."""

    help_group: ClassVar[str] = "training"

    mixed_precision: Annotated[str | None, Flag(show_default=False)] = None
    """Mixed precision of a training: no, bf16 or fp16.  [default: no]"""
    checkpointing: Annotated[bool | None, Flag("--checkpointing", show_default=False)] = None
    """Gradient checkpointing: train with less memory in a third more time."""
    random_erasing: Annotated[float | None, Flag(metavar="P", show_default=False)] = None
    """Probability of erasing a random rectangle of each training sample."""
    dom: Annotated[float | None, Flag(metavar="SHARE", show_default=False)] = None
    """Skip training steps whose loss is below this share of the first loss."""


def texts(given: Texts) -> tuple[str, ...]:
    """One text or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def paths(given: Paths) -> tuple[Path, ...]:
    """One path or several, as a tuple."""
    return (Path(given),) if isinstance(given, str | Path) else tuple(map(Path, given))


def join_config(options: Any) -> None:
    """Put the configs into the model's name, because workers and files know a model by its name alone."""
    if options.config is not None:
        named = with_config("" if options.model is None else str(options.model), options.config)
        object.__setattr__(options, "model", named)
        object.__setattr__(options, "config", None)
