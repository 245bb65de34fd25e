"""Processes that are measured from outside: CPU seconds and peak memory of each, from its start to its end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

GIB = 2**30
UNIT = 1 if sys.platform == "darwin" else 1024  # of the peak that the system tells


@dataclass(frozen=True)
class Cost:
    """What a process took; `said` is what it printed."""

    seconds: float  # of the CPU, user and system
    gib: float  # resident at most, files it mapped included
    said: str


def measured(words: Sequence[str]) -> Cost:
    """Run `python -m WORDS` on one thread.

    Who asks must not be large itself: a process begins as its parent's image.
    """
    # Compiled modules are kept as anybody's are, whatever the surroundings say.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)  # It has said why.
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * UNIT / GIB, said)
