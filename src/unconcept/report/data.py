"""Data models of `report.json` and `run.json`; `ReportData.model_json_schema()` is the JSON schema."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..core.errors import DataError, require
from ..core.escapes import json_text
from ..core.output_folder import write_atomically
from ..core.regular_files import require_regular_file
from ..prompts.sets import PromptGroup
from .data_types import DataTable, Number, RateData, SparseTable
from .forget_set_data import ForgetSetsData
from .ladder_data import LadderData

REPORT_SCHEMA_VERSION: Literal[3] = 3
ReportStatus = Literal["ok", "PARTIAL", "FAILED"]
# A number of a published protocol, a count by a named rule, FORM@EXTRACTOR, WHAT, or CONCEPT: ATTRIBUTE.
_FIGURE_NAMES = (
    r"^(UA|IRA|CRA|RA-I|RA-C|H|Acc_[ersg]|H_[ocas]|harmful objects|reduction"
    r"|(Acc_[esg]|H_[oc]), (strict|mean probability)|(faces|lost|kept), .+"
    r"|prompts that fire|in-prompt score|target not shown|rest kept"
    r"|target proportion|pinpoint-ness|selective alignment|(multilingual|attack) robustness"
    r"|(M[1-4]|EraseEval form|(product|least) of M1 to M4), .+"
    r"|(total|unsafe|reduction|[A-Z][A-Z_]+), (mace|cpe|speed|unlearndiffatk|recall|strict)"
    r"|(distance|variety kept|CLIP score|frechet|cubic-mmd|gaussian-mmd)@.+, .+|.+: .+)$"
)


class GroupData(DataTable):
    """Rates of one group of prompts: how often pictures show what the prompt asks for, before and after."""

    before: RateData
    after: RateData
    change: RateData
    """After minus before, paired by prompt and seed."""
    nothing: RateData
    """Share of the edited model's pictures in which the judge recognises nothing."""
    p: Number | None
    """Paired p-value of "no change", corrected for the number of groups; null if the test cannot be significant on so
    few."""
    detectable: Number | None = None
    """The smallest true change that the test finds in 80 % of cases, if all goes one way; null if it finds none."""


class FigureData(DataTable):
    """One number of a protocol, with its value on the unedited model where that is defined."""

    name: Annotated[str, Field(json_schema_extra={"pattern": _FIGURE_NAMES})]
    value: Number
    before: Number | None
    n: int
    formula: str
    interval: tuple[Number, Number] | None
    before_interval: tuple[Number, Number] | None


class BudgetData(DataTable):
    """One point of an attack's curve: success within a budget. Queries and seconds are means over prompts."""

    steps: int
    queries: Number
    seconds: Number | None
    success: Number


class ControlData(DataTable):
    """The rate of one control of an attack."""

    name: str
    rate: RateData


class AttackData(DataTable):
    """Results of one attack on one edit."""

    attack: str
    rung: Literal["text", "embedding", "latent", "picture", "weights"]
    concept: str
    pre: RateData
    """Rate on the plain prompts, without attack."""
    success: RateData
    """Attack success rate: share of prompts that show the concept, plain or attacked."""
    ceiling: RateData | None
    """Success of the same attack on the unedited model."""
    floor: RateData
    """Rate of the attack's first input, before any search."""
    nothing: RateData | None
    curve: tuple[BudgetData, ...]
    seconds: Number
    missing: int
    controls: tuple[ControlData, ...] = ()
    """Rates of its controls, which are no tries; and of the change that it asked for, if it asked for one."""


class AnswerData(DataTable):
    """One prompt with one seed, and the judge's answers before and after the edit."""

    text: str
    seed: int
    group: PromptGroup
    concept: str
    before: str
    after: str


class EditData(DataTable):
    """The header of an edit, with its hash and its strength."""

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
    """Licence of the base from its model card, when the edit was made; empty if the card names none."""
    hash: str
    strength: Number


class CostData(SparseTable):
    """Cost of an edit: seconds to make it, size on disk, parameters."""

    seconds: Number | None = None
    bytes: int
    parameters: int


class CalibrationData(DataTable):
    """Accuracy of the judge on the unedited model."""

    true_positive: RateData
    false_positive: RateData | None
    nothing: RateData
    warning: str = ""
    """Why the judge's counts say nothing; empty if it is sound."""


class TrialData(DataTable):
    """All results of one edit."""

    label: str
    concepts: tuple[str, ...]
    edit: EditData
    cost: CostData
    asked: int
    answered: int
    calibration: CalibrationData | None
    groups: dict[PromptGroup, GroupData]
    not_asked: dict[PromptGroup, str]
    instead: dict[str, int] = Field(default_factory=dict)
    """What the judge finds in the target's pictures that showed it before and do not now, most frequent first."""
    figures: tuple[FigureData, ...]
    attacks: tuple[AttackData, ...]
    out_of_reach: dict[str, str] = Field(default_factory=dict)
    """Attacks that cannot act on the edit, which have no rate: name and reason."""
    ladder: LadderData | None = None
    """The ladder of attacks, if one was climbed."""
    checks: tuple[AnswerData, ...]


class DrawingData(DataTable):
    """Settings with which pictures were drawn."""

    steps: int
    guidance_scale: Number
    sampler: str | None


class JudgeData(DataTable):
    """The judge; `hash` is the hash of its weights."""

    name: str
    version: int
    hash: str
    policy: str
    caveat: str = ""
    """What its word is worth, if it is not an independent judge's."""


class MeasureData(DataTable):
    """The network behind the figures named FORM@NAME; `hash` is the hash of its weights."""

    name: str
    version: int
    hash: str


class ReportData(DataTable):
    """The content of `report.json`."""

    schema_version: Annotated[Literal[3], Field(alias="schema")] = REPORT_SCHEMA_VERSION
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
    forget_sets: ForgetSetsData | None = None
    """The search for the forget set that is hardest to erase, if there was one; each set is a trial."""

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.model_dump(mode="json", by_alias=True)


class RunEditData(SparseTable):
    """Hash, cost and size of one edit of a run."""

    hash: str
    seconds: Number | None = None
    bytes: int
    parameters: int


class RunData(SparseTable):
    """The content of `run.json`: what may differ from run to run."""

    date: str = ""
    """When the report was written, UTC."""
    command: str = ""
    """The command as it was typed; empty if Python called the library."""
    base: str | None = None
    """The model of the edits, with its path: this file is not published."""
    libraries: dict[str, str]
    device: str
    dtype: str
    training: dict[str, Any] | None = None
    """Training options that differ from the defaults."""
    seconds: dict[str, Number]
    peak_memory_bytes: int
    edits: tuple[RunEditData, ...]
    failures: tuple[str, ...]


def read_ladders(path: Path) -> list[TrialData]:
    """Read the trials of a report that have a ladder; `DataError` for any other file."""
    require_regular_file(path, DataError)
    remedy = "give report.json of `unconcept attack ladder`"
    try:
        found = ReportData.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{path} is no report of this version: {remedy}") from None
    trials = [trial for trial in found.trials if trial.ladder is not None]
    require(bool(trials), f"{path} has no ladder: {remedy}", DataError)
    return trials


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as indented JSON, atomically."""
    write_atomically(path, (json_text(data, indent=2) + "\n").encode())
