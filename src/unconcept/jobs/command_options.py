"""Options of each command: one dataclass per command, built from groups that commands share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from ..core.seeds import SEED_BOUND, check_seed
from .options import (
    CONCEPTS_ARGUMENT,
    REGULARISERS_FLAG,
    SETTINGS_FLAG,
    AnchorOptions,
    ConceptOptions,
    DeviceOptions,
    DrawOptions,
    EditBaseOptions,
    Flag,
    JudgeOptions,
    MethodJudgeOptions,
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
class WeightOptions:
    """How much each concept counts beside the others."""

    help_group: ClassVar[str] = "request"

    weights: Annotated[
        Mapping[str, object] | None,
        Flag("--weight", str, repeats=True, assigns=True, metavar="CONCEPT=NUMBER", show_default=False),
    ] = None
    """How much a concept counts beside the others, whose weight is 1; 0 leaves it as it is; repeatable."""


@dataclass(frozen=True, kw_only=True)
class EraseOptions(
    OverwriteOptions,
    TrainingChoices,
    DrawOptions,
    JudgeOptions,
    MethodJudgeOptions,
    StrengthOptions,
    ModelOptions,
    MethodOptions,
    WeightOptions,
    RequestOptions,
):
    """Options of `erase`; None means the default."""

    out: Annotated[Path | None, Flag(show_default=False)] = None
    """Folder to write; it must not exist.  [default: out/CONCEPT]"""
    report: Annotated[
        bool, Flag("--no-report", help="Draw and judge nothing: write edit.safetensors and run.json.")
    ] = True
    """Whether pictures are drawn and judged."""
    store: Annotated[Path | None, PythonOnly()] = None
    """Folder of pictures and scores that runs share; None for `UNCONCEPT_STORE` or the user's cache."""


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(AnchorOptions):
    """Options of `explain`: a recipe, and options of `erase` that override it. None means not given."""

    recipe: Annotated[str, Flag(position=0)]
    """Recipe by name, or a .toml file."""
    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = ()
    """Concepts to erase instead of the recipe's targets."""
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
class SuiteOptions(OutputOptions, RunOptions, DrawOptions, JudgeOptions, DeviceOptions, ConceptOptions):
    """Options of every evaluation."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """Concepts that the edits should erase; one or several."""
    prompts: Annotated[Path | None, Flag(show_default=False)] = None
    """Prompt file (.csv, .tsv, .json, .jsonl or one prompt per line) to use instead of the suite's prompts."""
    measures: Annotated[Texts, Flag("--measure", str, repeats=True, metavar="NAME=PATH", show_default=False)] = ()
    """Scorer that measures beside the judge: captions, agreement with texts, features of sets; repeatable."""
    references: Annotated[Path | None, Flag(show_default=False)] = None
    """Folder of real pictures, for distances of sets."""
    spec: Annotated[str | None, Flag(show_default=False)] = None
    """Steps, guidance and sampler of a paper, by name; see `unconcept specs`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(StrengthOptions, EditBaseOptions, SuiteOptions):
    """Options of `evaluate`."""

    edits: Annotated[Paths, Flag("--edit", Path, repeats=True)]
    """Edit file to evaluate; repeatable."""
    suite: str = "quick"
    """Suite; see `unconcept suites`."""


@dataclass(frozen=True, kw_only=True)
class AttackOptions(StrengthOptions, EditBaseOptions, SuiteOptions):
    """Options of `attack`."""

    name: Annotated[str, Flag(position=0)]
    """Attack; see `unconcept attacks`. `all` runs every attack, `ladder` climbs from what is free to what is dear."""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True)]
    """Edit file to attack; repeatable."""
    rungs: Annotated[Texts, Flag("--rung", str, repeats=True, show_default=False)] = ()
    """Rung of the ladder to try, instead of all; repeatable."""
    control: Annotated[str | None, Flag(metavar="MODEL", show_default=False)] = None
    """A model that never saw the concept: rungs that may teach it run on it too."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(EditBaseOptions, SuiteOptions):
    """Options of `bench`."""

    methods: str = "all"
    """Methods, separated by commas; `all` runs every method."""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True, show_default=False)] = ()
    """Finished edit file to measure beside the methods, for the concepts that it erases; repeatable."""
    suite: str = "quick"
    """Suite; see `unconcept suites`."""


@dataclass(frozen=True, kw_only=True)
class WorstCaseOptions(OutputOptions, RunOptions, DrawOptions, JudgeOptions, ModelOptions, ConceptOptions):
    """Options of `worst-case`."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """Candidates: concepts, or with --by prompt whole prompts; more than --size."""
    size: Annotated[int, Flag(least=1)]
    """Number of candidates in a set."""
    method: str = "uce"
    """Method that erases; see `unconcept methods`."""
    settings: Annotated[Mapping[str, object] | None, SETTINGS_FLAG] = None
    """One setting of the method, over the model's recipe for it; repeatable."""
    by: Literal["concept", "prompt"] = "concept"
    """What a candidate is: concept or prompt."""
    loss: Literal["denoising", "judged"] = "denoising"
    """What the weights follow: denoising, the error on a candidate's pictures, or judged, what the judge finds."""
    outer: Annotated[int, Flag(least=1)] = 10
    """Erasures of each search, one step of the weights each."""
    w_lr: Annotated[float | None, Flag(show_default=False)] = None
    """Rate of the weights.  [default: such that the first step changes none by more than 0.3]"""
    random: Annotated[int, Flag(least=1)] = 10
    """Random sets of the same size at most, as a control."""


@dataclass(frozen=True, kw_only=True)
class RecheckOptions:
    """Options of `recheck`."""

    edit: Annotated[Path, Flag(position=0)] = field(kw_only=False)
    """edit.safetensors to check."""
    models: Annotated[Texts, Flag("--model", str, repeats=True, show_default=False)] = ()
    """Fine-tune or merge of the edit's base: a diffusers folder, a .safetensors file or a Hub id; repeatable."""
    folder: Annotated[Path | None, Flag(show_default=False)] = None
    """Folder of derivatives: each diffusers folder and each .safetensors file in it is checked."""
    pictures: Annotated[int | None, Flag(least=1, show_default=False)] = None
    """Also draw and judge, this many prompts of a group at most, without the edit and with it; needs --out."""
    judge: Annotated[str | None, Flag(show_default=False)] = None
    """Judge of the pictures, as for `evaluate`."""
    out: Annotated[Path | None, Flag(show_default=False)] = None
    """Folder to write reports with pictures to, one for each model; it must not exist."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(OutputOptions, DrawOptions, StrengthOptions, DeviceOptions, EditBaseOptions):
    """Options of `sample`."""

    prompts: Annotated[Texts, Flag(kind=str, repeats=True, position=0, show_default=False)] = ()
    """Prompts to draw."""
    found: Annotated[Path | None, Flag(show_default=False)] = None
    """Draw inputs that an attack found: a file from its `found/` folder."""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True, show_default=False)] = ()
    """edit.safetensors to apply; repeatable, all are applied together."""
    steps: Annotated[int | None, Flag(least=1, most=1000, show_default=False)] = None
    """Denoising steps.  [default: 20, or the most that a model of few steps allows]"""
    guidance_scale: float | None = None
    """Guidance scale; the default is the model's own."""
    sampler: Annotated[str | None, Flag(show_default=False)] = None
    """ddim, pndm, lms, euler, euler-ancestral, dpm or lcm; for flows euler, overshoot or amo.  [default: its own]"""
    source: Annotated[Path | None, Flag("--from", show_default=False)] = None
    """Draw from a picture of the model's size instead of noise, or from the file that `unconcept invert` wrote."""
    level: Annotated[float | None, Flag(show_default=False)] = None
    """With --from PICTURE: share of the steps that are drawn, above 0 to 1, which keeps nothing.  [default: 0.6]"""


@dataclass(frozen=True, kw_only=True)
class InvertOptions(OutputOptions, StrengthOptions, DeviceOptions, EditBaseOptions):
    """Options of `invert`."""

    picture: Annotated[Path, Flag(position=0)]
    """Picture of the model's own size."""
    prompt: str = ""
    """Text under which it is inverted and drawn again."""
    by: Annotated[str | None, Flag(show_default=False)] = None
    """Inversion: ddim, edit-friendly (exact, to draw under another prompt) or flow.  [default: ddim, for flows flow]"""
    edits: Annotated[Paths, Flag("--edit", Path, repeats=True, show_default=False)] = ()
    """edit.safetensors to apply meanwhile; repeatable."""
    steps: Annotated[int, Flag(least=1, most=1000)] = 20
    """Steps, in which it must be drawn again too."""
    guidance_scale: float = 1.0
    """Guidance scale; 1, no guidance, inverts best."""
    seed: Annotated[int, Flag(least=0, most=SEED_BOUND - 1)] = 0
    """Seed of edit-friendly noise."""

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class WriteOptions(OverwriteOptions, StrengthOptions, EditBaseOptions):
    """Options of commands that write an edit to files of other tools."""

    edit: Annotated[Path, Flag(position=0)]
    """edit.safetensors to write."""
    static: Annotated[bool, Flag("--static")] = False
    """Apply an edit whose strength depends on the prompt at full strength for every prompt."""


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(WriteOptions):
    """Options of `apply`."""

    out: Path
    """Folder to write, or file if the model is a single file; it must not exist."""
    other_base: Annotated[bool, Flag("--other-base")] = False
    """Write it into another model of its family, --model, than its own base; what it does there is printed first."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(WriteOptions):
    """Options of `export`."""

    to: str
    """Format: diffusers or peft (a folder); single-file, kohya, comfyui or comfyui-lora (one .safetensors)."""
    out: Path
    """Folder or file to write; it must not exist."""
    dtype: str = "auto"
    """Data type to write: auto (as the model's weights), float32, bfloat16 or float16."""
    rank: Annotated[int | None, Flag(show_default=False)] = None
    """Largest rank of a LoRA.  [default: the edit's own, 64 if it is dense]"""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(OverwriteOptions, AnchorOptions, SourceOptions):
    """Options of `import`."""

    source: Annotated[Path, Flag(position=0, metavar="PATH")]
    """LoRA of any trainer, .diff patch, PEFT folder, file of whole weights, or an edited checkpoint: folder or file."""
    concepts: Annotated[Texts, CONCEPTS_ARGUMENT]
    """Concepts that it was made to erase; one or several."""
    out: Path
    """Edit file to write; it must not exist."""
    method: str = "imported"
    """Name of the method that made it, for the record."""
    anchors: Annotated[Texts | None, Flag("--anchor", str, repeats=True)] = None
    """Anchor, the text that a concept should read as: one for all, or one per concept."""
    retain: Annotated[Texts | None, Flag("--retain", str, repeats=True)] = None
    """Text that it should not change; repeatable."""
