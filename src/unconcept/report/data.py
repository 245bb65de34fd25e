"""What `report.json` and `run.json` hold, as models; `ReportData.model_json_schema()` is the JSON schema."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ..core.output_folder import write_atomically
from ..prompts.sets import PromptGroup

REPORT_SCHEMA_VERSION: Literal[2] = 2
ReportStatus = Literal["ok", "PARTIAL", "FAILED"]
Number = int | float  # as it was given: a count stays whole
# A protocol's own number, a count by a named rule, FORM@EXTRACTOR, WHAT, or CONCEPT: ATTRIBUTE.
_FIGURE_NAMES = (
    r"^(UA|IRA|CRA|RA-I|RA-C|H|Acc_e|Acc_r|harmful objects|reduction"
    r"|(total|unsafe|reduction|[A-Z][A-Z_]+), (mace|cpe|speed|unlearndiffatk|recall|strict)"
    r"|(distance|CLIP score|frechet|cubic-mmd|gaussian-mmd)@.+, .+|.+: .+)$"
)


class _Table(BaseModel):
    """Holds this and nothing else; can be made of any object that has these attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class _SparseTable(_Table):
    """Leaves out what is not known."""

    @model_serializer(mode="wrap")
    def _known(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class RateData(_Table):
    """A share or a mean change with its 95 % interval and count."""

    value: Number
    low: Number
    high: Number
    n: Annotated[int, Field(ge=1)]
    clusters: int | None
    """Concepts, where the interval resamples them."""

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


class GroupData(_Table):
    """One group of prompts: how often pictures show what was asked, before and after."""

    before: RateData
    after: RateData
    change: RateData
    """After less before, paired."""
    nothing: RateData
    """Share of the edited model's pictures that show nothing the judge knows."""
    p: Number
    """Of no change, corrected for the number of groups."""


class FigureData(_Table):
    """One number of a protocol, beside its value on the unedited model where that is defined."""

    name: Annotated[str, Field(json_schema_extra={"pattern": _FIGURE_NAMES})]
    value: Number
    before: Number | None
    n: int
    formula: str
    interval: tuple[Number, Number] | None
    before_interval: tuple[Number, Number] | None


class BudgetData(_Table):
    """One budget of an attack's curve; queries and seconds are means over prompts."""

    steps: int
    queries: Number
    seconds: Number | None
    success: Number


class AttackData(_Table):
    """One attack on one edit."""

    attack: str
    rung: Literal["text", "embedding", "latent", "weights"]
    concept: str
    pre: RateData
    """The plain prompts, unattacked."""
    success: RateData
    """Plain prompts and attacked ones together."""
    ceiling: RateData | None
    """The same attack on the unedited model."""
    floor: RateData
    """The attack's first input, before any search."""
    nothing: RateData | None
    curve: tuple[BudgetData, ...]
    seconds: Number
    missing: int


class AnswerData(_Table):
    """One question about one picture, and the judge's words before and after."""

    text: str
    seed: int
    group: PromptGroup
    concept: str
    before: str
    after: str


class EditData(_Table):
    """The header of an edit, its hash and its strength."""

    method: str
    settings: dict[str, Any]
    targets: tuple[str, ...]
    anchors: tuple[str, ...]
    retain: tuple[str, ...]
    kind: str
    family: str
    base: str
    base_hash: str
    version: str
    report: dict[str, Number]
    """Exact figures of the solve. Closed forms: residual (of the worst target) and residual of NAME (of each), drift,
    rank, condition, parameters, norm_jump (norm after over norm before, of the matrix where it changes most)."""
    licence: str
    """Of the base, as its model card named it when the edit was made; empty where it named none."""
    hash: str
    strength: Number


class CostData(_SparseTable):
    """What an edit took to make and takes on disk."""

    seconds: Number | None = None
    bytes: int
    parameters: int


class CalibrationData(_Table):
    """The judge's word on the unedited model."""

    true_positive: RateData
    false_positive: RateData | None
    nothing: RateData


class TrialData(_Table):
    """One edit and what was asked of it."""

    label: str
    concepts: tuple[str, ...]
    edit: EditData
    cost: CostData
    asked: int
    answered: int
    calibration: CalibrationData | None
    groups: dict[PromptGroup, GroupData]
    not_asked: dict[PromptGroup, str]
    figures: tuple[FigureData, ...]
    attacks: tuple[AttackData, ...]
    checks: tuple[AnswerData, ...]


class DrawingData(_Table):
    """How pictures were drawn."""

    steps: int
    guidance_scale: Number
    sampler: str | None


class JudgeData(_Table):
    """Who judged; `hash` is of the weights."""

    name: str
    version: int
    hash: str
    policy: str


class MeasureData(_Table):
    """What the figures named FORM@NAME were taken with; `hash` is of the weights."""

    name: str
    version: int
    hash: str


class ReportData(_Table):
    """`report.json`."""

    schema_version: Annotated[Literal[2], Field(alias="schema")] = REPORT_SCHEMA_VERSION
    status: ReportStatus
    failures: tuple[str, ...]
    missing: int
    suite: str
    drawing: DrawingData
    judge: JudgeData | None
    measures: tuple[MeasureData, ...]
    table_hash: str | None
    reasons: dict[str, str]
    recipe: str | None
    trials: tuple[TrialData, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json", by_alias=True)


class RunEditData(_SparseTable):
    """One edit of a run."""

    hash: str
    seconds: Number | None = None
    bytes: int
    parameters: int


class RunData(_SparseTable):
    """`run.json`: what may differ from run to run."""

    libraries: dict[str, str]
    device: str
    dtype: str
    training: dict[str, Any] | None = None
    """How a method was trained, where not as usual."""
    seconds: dict[str, Number]
    peak_memory_bytes: int
    edits: tuple[RunEditData, ...]
    failures: tuple[str, ...]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Plain data, indented."""
    write_atomically(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
