"""Options that only the command line has: how a command prints."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..jobs.options import Flag


@dataclass(frozen=True, kw_only=True)
class JsonOptions:
    """Whether results are printed as JSON."""

    help_group: ClassVar[str] = "printing"

    as_json: Annotated[bool, Flag("--json")] = False
    """Print JSON on stdout."""


@dataclass(frozen=True, kw_only=True)
class QuietOptions:
    """Whether progress is printed."""

    help_group: ClassVar[str] = "printing"

    quiet: Annotated[bool, Flag("--quiet")] = False
    """Print no progress."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Whether the command only says what it would do."""

    help_group: ClassVar[str] = "run"

    dry_run: Annotated[bool, Flag("--dry-run")] = False
    """Print what would be done, written, downloaded and spent, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class PrintOptions(QuietOptions, JsonOptions):
    """What a command prints: JSON or tables, with or without progress."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Whether models are fetched; every command with a model has it."""

    help_group: ClassVar[str] = "model"

    offline: Annotated[bool, Flag("--offline")] = False
    """Fetch nothing: a Hub id must be in the Hugging Face cache. HF_HUB_OFFLINE=1 does the same."""
