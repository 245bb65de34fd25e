"""Options of each command of `unconcept ledger`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..core.seeds import SEED_BOUND, check_seed
from .command_options import WeightOptions
from .options import (
    CONCEPTS_ARGUMENT,
    CheckedOptions,
    Flag,
    MethodOptions,
    OutputOptions,
    OverwriteOptions,
    RequestOptions,
    SettingOptions,
    SourceOptions,
    Texts,
    join_config,
)


@dataclass(frozen=True, kw_only=True)
class LedgerOptions:
    """The ledger."""

    folder: Annotated[Path, Flag(position=0, metavar="DIR")]
    """Folder of the ledger."""


@dataclass(frozen=True, kw_only=True)
class NoteOptions:
    """Author and reason of an entry."""

    by: str = ""
    """Who makes this entry, for the record."""
    because: str = ""
    """Reason for this entry, for the record."""


@dataclass(frozen=True, kw_only=True)
class AskOptions(CheckedOptions):
    """Who asks for a request or withdraws an ask, and why."""

    by: str = ""
    """Who asks for it."""
    because: str = ""
    """Reason, for the record."""
    recorded_by: str = ""
    """Who types this, if it is somebody else: the clerk."""


@dataclass(frozen=True, kw_only=True)
class BaseOptions(CheckedOptions):
    """Location of a ledger's base model."""

    model: Annotated[str | None, Flag(show_default=False)] = None
    """Base model, if it was moved.  [default: as recorded in the ledger]"""
    config: Path | None = None
    """For a .safetensors file: diffusers folder with its configs; SD 1.x to 3.5 and SDXL need none."""

    def __post_init__(self) -> None:
        join_config(self)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class BaseDeviceOptions(BaseOptions):
    """Location and device of a ledger's base model."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True, kw_only=True)
class InitOptions(NoteOptions, MethodOptions, SourceOptions, LedgerOptions):
    """Options of `ledger init`."""

    rule: str = "recompute"
    """How trained requests combine into one state: recompute, merge or sequential. Closed forms fold exactly."""
    merge: Annotated[str | None, Flag(show_default=False)] = None
    """For rule merge: uniform, task-arithmetic or ties.  [default: ties]"""
    merge_scale: Annotated[float | None, Flag(show_default=False)] = None
    """For task-arithmetic and ties: strength of every change.  [default: 1.0]"""
    amplify: Annotated[bool, Flag("--amplify")] = False
    """Allow a negative strength, with which a model draws more of what the ledger erases."""
    merge_topk: Annotated[float | None, Flag(show_default=False)] = None
    """For ties: share of each tensor's entries to keep.  [default: 0.2]"""
    teacher: Annotated[str | None, Flag(show_default=False)] = None
    """For rule sequential: previous (the model before the request) or pretrained.  [default: previous]"""


@dataclass(frozen=True, kw_only=True)
class AddOptions(AskOptions, BaseDeviceOptions, SettingOptions, WeightOptions, RequestOptions, LedgerOptions):
    """Options of `ledger add`."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """Concepts to erase; several make one request."""
    method: Annotated[str | None, Flag(show_default=False)] = None
    """Method.  [default: the method in `ledger init`]"""


@dataclass(frozen=True, kw_only=True)
class RevokeOptions(LedgerOptions):
    """Options of `ledger revoke`."""

    id: Annotated[str, Flag(position=1, metavar="ID")]
    """The first digits of a request's id."""
    by: Annotated[str | None, Flag(show_default=False)] = None
    """Whose ask to take back, where several ask for the request."""
    every: Annotated[bool, Flag("--all")] = False
    """Take back all asks for the request."""
    because: str = ""
    """Reason, for the record."""
    recorded_by: str = ""
    """Who types this: the clerk."""


@dataclass(frozen=True, kw_only=True)
class ForgetOptions(NoteOptions, LedgerOptions):
    """Options of `ledger forget`."""

    entry: Annotated[int, Flag(position=1, metavar="ENTRY")]
    """Number of the entry with the withdrawn ask, as `ledger status` lists it."""


@dataclass(frozen=True, kw_only=True)
class MaterializeOptions(NoteOptions, BaseDeviceOptions, OutputOptions, LedgerOptions):
    """Options of `ledger materialize`."""

    checkpoint: Annotated[bool, Flag("--checkpoint")] = False
    """Also write a whole model."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(BaseOptions, OverwriteOptions, LedgerOptions):
    """Options of `ledger status`."""

    html: Path | None = None
    """Write an HTML page to this file instead of printing."""
    ladder: Annotated[Path | None, Flag(metavar="REPORT", show_default=False)] = None
    """With --html: report.json of `unconcept attack ladder` on the ledger's edit, for the page."""


@dataclass(frozen=True, kw_only=True)
class DriftOptions(BaseDeviceOptions, LedgerOptions):
    """Options of `ledger drift`."""

    history: Annotated[bool, Flag("--history")] = False
    """Drift after every entry; for closed forms and for the rules merge and sequential."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(BaseOptions, LedgerOptions):
    """Options of `ledger verify`."""

    bytes_only: Annotated[bool, Flag("--bytes-only")] = False
    """Check only the files: do not open the model and rebuild the state."""
    head: Path | None = None
    """File of heads written down earlier, one a line as `ledger status` prints them: the chain must contain them."""
    card: Path | None = None
    """A `card.json` of `ledger materialize`: the chain must contain the head in it."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions(BaseDeviceOptions, LedgerOptions):
    """Options of `ledger audit`."""

    id: Annotated[str | None, Flag(position=1, metavar="[ID]", show_default=False)] = None
    """The first digits of one request's id.  [default: all requests in force]"""
    steps: Annotated[int, Flag(least=1)] = 100
    """Steps of the fine-tune."""
    pictures: Annotated[int, Flag(least=1, most=1000)] = 8
    """Pictures of each concept for each count; some of them are kept, small, for the page."""
    seed: Annotated[int, Flag(least=0, most=SEED_BOUND - 1)] = 0
    """Seed of the initial noise."""
    store_pictures: Annotated[bool, Flag("--store-pictures")] = False
    """Keep pictures of an explicit concept too; without it only the counts stay."""
    by: str = ""
    """Who runs this audit, for the record."""

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DiffOptions(LedgerOptions):
    """Options of `ledger diff`."""

    other: Annotated[Path, Flag(position=1, metavar="DIR2")]
    """The other ledger, or the other folder of `materialize` if the first is one."""
