"""Describes the environment of a run: library versions, device, timings, memory."""

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..core.escapes import shell_text, without_credentials
from ..core.versions import library_versions
from ..models import ModelView
from ..models.precision import DtypePolicy


def run_environment(
    model: ModelView, seconds: Mapping[str, float], training: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Collect what may differ from run to run; `training` holds training options that differ from the defaults."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command_line(),
        "libraries": {"unconcept": version("unconcept"), **library_versions(), "python": platform.python_version()},
        "device": str(model.device),
        "dtype": str(DtypePolicy(model.dtype, getattr(model, "drawing_dtype", None) or model.dtype)),
        **({"training": dict(training)} if training else {}),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
    }


def command_line(with_folders: bool = True) -> str:
    """The command of this process as it can be typed again, without passwords of URLs; empty where Python called the
    library.

    Without folders, absolute paths are reduced to their last part, for pages that are published.
    """
    program, *words = sys.argv
    is_command = Path(program).stem in ("unconcept", "__main__")
    shown = words if with_folders else [_without_folders(word) for word in words]
    typed = ("unconcept", *map(without_credentials, shown))
    return " ".join(map(shell_text, typed)) if is_command else ""


def _without_folders(word: str) -> str:
    start, equals, value = word.rpartition("=")
    is_path = Path(value).expanduser().is_absolute() or value.startswith("~")
    return f"{start}{equals}{Path(value).name}" if is_path else word


def peak_memory_bytes() -> int:
    """The peak memory of this process. psutil reports it on Windows only, `resource` everywhere else."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
