"""What each command may be told: one dataclass a command, made of the groups that commands share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from .options import (
    CONCEPTS_ARGUMENT,
    REGULARISERS_FLAG,
    SETTINGS_FLAG,
    AnchorOptions,
    ConceptOptions,
    DrawOptions,
    Flag,
    JudgeOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    OverwriteOptions,
    Paths,
    PythonOnly,
    RequestOptions,
    RunOptions,
    SourceOptions,
    StrengthOptions,
    Texts,
    TrainingChoices,
)


@dataclass(frozen=True, kw_only=True)
class EraseOptions(
    OverwriteOptions,
    TrainingChoices,
    DrawOptions,
    JudgeOptions,
    StrengthOptions,
    ModelOptions,
    MethodOptions,
    RequestOptions,
):
    """Everything that `erase` may be told; None means the default."""

    out: Annotated[Path | None, Flag(show_default=False)] = None
    """Folder to write; it must not exist.  [default: out/CONCEPT]"""
    report: Annotated[
        bool, Flag("--no-report", help="Draw and judge nothing: write edit.safetensors and run.json.")
    ] = True
    """Whether pictures are drawn and judged."""
    store: Annotated[Path | None, PythonOnly()] = None
    """Folder of pictures and scores that runs share; unless told, that of `UNCONCEPT_STORE`."""


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(AnchorOptions):
    """A recipe, and what is typed besides it, as for `erase`. None means that it is not typed."""

    recipe: Annotated[str, Flag(position=0)]
    """Recipe by name, or a .toml file."""
    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = ()
    """What would be erased, in place of the recipe's targets."""
    model: Annotated[str | None, Flag(show_default=False)] = None
    """As for `erase`.  [default: moji]"""
    settings: Annotated[Mapping[str, object] | None, SETTINGS_FLAG] = None
    """One setting of the method; repeatable."""
    regularisers: Annotated[Mapping[str, object] | None, REGULARISERS_FLAG] = None
    """For trained methods: l1sp, l2sp, selft_topk, projection (update or gradient); repeatable."""
    batch_size: Annotated[int | None, Flag(least=1, most=1024, show_default=False)] = None
    """As for `erase`."""
    seed: Annotated[int | None, Flag(show_default=False)] = None
    """As for `erase`."""
    limit: Annotated[int | None, Flag(least=1)] = None
    """Prompts of a group at most."""


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(OutputOptions, RunOptions, DrawOptions, JudgeOptions, ModelOptions, ConceptOptions):
    """What every evaluation may be told."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """What the edits were to erase; one or several."""
    prompts: Annotated[Path | None, Flag(show_default=False)] = None
    """Prompt file (CSV, JSON or one a line) in the suite's place."""
    spec: Annotated[str | None, Flag(show_default=False)] = None
    """A paper's steps, guidance and sampler; see `unconcept specs`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(StrengthOptions, SuiteOptions):
    """Everything that `evaluate` may be told."""

    edits: Annotated[Paths, Flag("--edit", Path, repeats=True)]
    """Edit file to examine; repeatable."""
    suite: str = "quick"
    """Suite; see `unconcept suites`."""


@dataclass(frozen=True, kw_only=True)
class AttackOptions(StrengthOptions, SuiteOptions):
    """Everything that `attack` may be told."""

    name: Annotated[str, Flag(position=0)]
    """Attack; see `unconcept attacks`. all is every one."""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True)]
    """Edit file to examine; repeatable."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(SuiteOptions):
    """Everything that `bench` may be told."""

    methods: str = "all"
    """Methods, separated by commas; all is every one."""
    suite: str = "quick"
    """Suite; see `unconcept suites`."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(OutputOptions, DrawOptions, StrengthOptions, ModelOptions):
    """Everything that `sample` may be told."""

    prompts: Annotated[Texts, Flag(kind=str, repeats=True, position=0, show_default=False)] = ()
    """What to draw."""
    found: Annotated[Path | None, Flag(show_default=False)] = None
    """Draw what an attack found: a file of its `found/` folder."""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True, show_default=False)] = ()
    """edit.safetensors to draw with; repeatable, all at once."""
    steps: Annotated[int, Flag(least=1, most=1000)] = 20
    """Denoising steps."""
    guidance_scale: float | None = None
    """Guidance; the default is the model's own."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions(OverwriteOptions, StrengthOptions, SourceOptions):
    """An edit that is written into files of other tools."""

    edit: Annotated[Path, Flag(position=0)]
    """edit.safetensors of an erasure."""
    static: Annotated[bool, Flag("--static")] = False
    """Write an edit whose strength depends on the prompt at full strength for every prompt."""


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(WriteOptions):
    """Everything that `apply` may be told."""

    out: Path
    """Folder to write, or file where the model is one; it must not exist."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(WriteOptions):
    """Everything that `export` may be told."""

    to: str
    """diffusers or peft (a folder); single-file, kohya or comfyui (one .safetensors)."""
    out: Path
    """Folder or file to write; it must not exist."""
    dtype: str = "auto"
    """auto (as the model's weights), float32, bfloat16 or float16: what is written."""
    rank: Annotated[int | None, Flag(show_default=False)] = None
    """Largest rank of a LoRA.  [default: the edit's own, 64 if it is dense]"""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(OverwriteOptions, AnchorOptions, SourceOptions):
    """Everything that `import` may be told."""

    lora: Annotated[Path, Flag(position=0, metavar="FILE")]
    """LoRA of kohya's or diffusers' form, .diff patch, or PEFT folder."""
    concepts: Annotated[Texts, CONCEPTS_ARGUMENT]
    """What it was made to erase; one or several."""
    out: Path
    """Edit file to write; it must not exist."""
    method: str = "imported"
    """What made it, for the record."""
    anchors: Annotated[Texts | None, Flag("--anchor", str, repeats=True)] = None
    """What a concept is to be read as: one, or one a concept."""
    retain: Annotated[Texts | None, Flag("--retain", str, repeats=True)] = None
    """Text that was not to change; repeatable."""
