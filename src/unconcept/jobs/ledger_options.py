"""What each command of `unconcept ledger` may be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from .options import (
    CONCEPTS_ARGUMENT,
    Flag,
    MethodOptions,
    OutputOptions,
    OverwriteOptions,
    RequestOptions,
    SettingOptions,
    SourceOptions,
    Texts,
)


@dataclass(frozen=True, kw_only=True)
class LedgerOptions:
    """Which ledger."""

    folder: Annotated[Path, Flag(position=0, metavar="DIR")]
    """Folder of the ledger."""


@dataclass(frozen=True, kw_only=True)
class NoteOptions:
    """What is noted beside an entry."""

    by: str = ""
    """Who asks, for the record."""
    because: str = ""
    """Why, for the record."""


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """Where a ledger's base is."""

    model: Annotated[str | None, Flag(show_default=False)] = None
    """Where the base is now, if it was moved.  [default: as the ledger says]"""


@dataclass(frozen=True, kw_only=True)
class BaseDeviceOptions(BaseOptions):
    """Where a ledger's base is, and where it computes."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True, kw_only=True)
class InitOptions(NoteOptions, MethodOptions, SourceOptions, LedgerOptions):
    """Everything that `ledger init` may be told."""

    rule: str = "recompute"
    """How trained requests become one state: recompute, merge or sequential. Closed forms fold exactly."""
    merge: Annotated[str | None, Flag(show_default=False)] = None
    """Of rule merge: uniform, task-arithmetic or ties.  [default: ties]"""
    merge_scale: Annotated[float | None, Flag(show_default=False)] = None
    """Of task-arithmetic and ties: factor of every change.  [default: 1.0]"""
    merge_topk: Annotated[float | None, Flag(show_default=False)] = None
    """Of ties: share of each tensor's entries that is kept.  [default: 0.2]"""
    teacher: Annotated[str | None, Flag(show_default=False)] = None
    """Of rule sequential: previous (the model before the request) or pretrained.  [default: previous]"""


@dataclass(frozen=True, kw_only=True)
class AddOptions(NoteOptions, BaseDeviceOptions, SettingOptions, RequestOptions, LedgerOptions):
    """Everything that `ledger add` may be told."""

    concepts: Annotated[Texts, CONCEPTS_ARGUMENT] = field(default=(), kw_only=False)
    """What to erase; several are one request."""
    method: Annotated[str | None, Flag(show_default=False)] = None
    """Method.  [default: the one that the ledger was begun with]"""


@dataclass(frozen=True, kw_only=True)
class RevokeOptions(NoteOptions, LedgerOptions):
    """Everything that `ledger revoke` may be told."""

    id: Annotated[str, Flag(position=1, metavar="ID")]
    """The beginning of a request's id."""


@dataclass(frozen=True, kw_only=True)
class MaterializeOptions(NoteOptions, BaseDeviceOptions, OutputOptions, LedgerOptions):
    """Everything that `ledger materialize` may be told."""

    checkpoint: Annotated[bool, Flag("--checkpoint")] = False
    """Write a whole model besides."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(BaseOptions, OverwriteOptions, LedgerOptions):
    """Everything that `ledger status` may be told."""

    html: Path | None = None
    """Write a page instead."""


@dataclass(frozen=True, kw_only=True)
class DriftOptions(BaseDeviceOptions, LedgerOptions):
    """Everything that `ledger drift` may be told."""

    history: Annotated[bool, Flag("--history")] = False
    """After every entry: of closed forms, merges and sequences."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(BaseOptions, LedgerOptions):
    """Everything that `ledger verify` may be told."""

    bytes_only: Annotated[bool, Flag("--bytes-only")] = False
    """Do not open the model and build the state."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions(BaseDeviceOptions, LedgerOptions):
    """Everything that `ledger audit` may be told."""

    id: Annotated[str | None, Flag(position=1, metavar="[ID]", show_default=False)] = None
    """The beginning of one request's id.  [default: all in force]"""
    steps: Annotated[int, Flag(least=1)] = 100
    """Of the fine-tune."""
    pictures: Annotated[int, Flag(least=1, most=1000)] = 8
    """Of each concept, each time."""
    seed: int = 0
    """Seed of the initial noise."""
    by: str = ""
    """Who asks, for the record."""


@dataclass(frozen=True, kw_only=True)
class DiffOptions(LedgerOptions):
    """Everything that `ledger diff` may be told."""

    other: Annotated[Path, Flag(position=1, metavar="DIR2")]
    """The other ledger."""
