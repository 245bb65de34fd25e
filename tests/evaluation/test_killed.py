"""A run that is killed at any moment goes on with the same command and ends in the same report."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.evaluation.test_harness import pizza as pizza

TRIALS = 6


def command(edit: Path, out: Path, workers: int) -> list[str]:
    words = [
        "evaluate",
        "pizza",
        "--edit",
        edit,
        "--suite",
        "smoke",
        "--limit",
        "2",
        "--batch-size",
        "3",
        "--workers",
        str(workers),
        "--out",
        out,
    ]
    return [sys.executable, "-m", "unconcept", *map(str, words)]


def workers_in(store: str) -> list[int]:
    """Processes that use a store."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("UNCONCEPT_STORE") == store:
                found.append(process.pid)
    return found


def untimed(out: Path) -> object:
    return json.loads(
        (out / "report.json").read_text(), object_hook=lambda table: {k: v for k, v in table.items() if k != "seconds"}
    )


@pytest.mark.slow
def test_kill_9_at_random_points(pizza, tmp_path) -> None:
    def place(name: str, workers: int = 1) -> tuple[list[str], dict[str, str], Path]:
        out = tmp_path / name / "out"
        return (
            command(pizza, out, workers),
            {**os.environ, "UNCONCEPT_STORE": str(tmp_path / name / "store"), "OMP_NUM_THREADS": "1"},
            out,
        )

    words, env, out = place("whole")
    begun = time.monotonic()
    assert subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0
    whole, seconds = untimed(out), time.monotonic() - begun
    rng = random.Random(0)
    for trial in range(TRIALS):
        words, env, out = place(f"trial-{trial}", 1 + trial % 2)
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep((0.2 + 0.8 * (trial + rng.random()) / TRIALS) * seconds)  # each in its own part of the run
        process.kill()
        process.wait()
        seen = workers_in(env["UNCONCEPT_STORE"])
        finished = subprocess.run([*words, "--overwrite"], env=env, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        assert untimed(out) == whole, f"trial {trial}"
        assert {path.name for path in out.parent.iterdir()} == {"out", "store"}, f"trial {trial}"
        assert not [pid for pid in seen if psutil.pid_exists(pid)], f"trial {trial}: workers outlived the run"
