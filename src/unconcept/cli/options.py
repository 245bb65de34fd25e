"""How a command prints: the options that only the command line has."""

from dataclasses import dataclass
from typing import Annotated

from ..jobs.options import Flag


@dataclass(frozen=True, kw_only=True)
class JsonOptions:
    """Whether results are printed as data."""

    as_json: Annotated[bool, Flag("--json")] = False
    """Print JSON on stdout."""


@dataclass(frozen=True, kw_only=True)
class QuietOptions:
    """Whether progress is printed."""

    quiet: Annotated[bool, Flag("--quiet")] = False
    """Print no progress."""


@dataclass(frozen=True, kw_only=True)
class PrintOptions(QuietOptions, JsonOptions):
    """What is printed."""
