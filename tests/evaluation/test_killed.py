"""A run that is killed at any moment goes on with the same command and ends in the same report."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluation.test_harness import pizza as pizza

TRIALS = 20


def command(edit: Path, out: Path) -> list[str]:
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
        "1",
        "--out",
        out,
    ]
    return [sys.executable, "-m", "unconcept", *map(str, words)]


def untimed(out: Path) -> object:
    return json.loads(
        (out / "report.json").read_text(), object_hook=lambda table: {k: v for k, v in table.items() if k != "seconds"}
    )


@pytest.mark.slow
def test_kill_9_at_random_points(pizza, tmp_path) -> None:
    def place(name: str) -> tuple[list[str], dict[str, str], Path]:
        out = tmp_path / name / "out"
        return (
            command(pizza, out),
            {**os.environ, "UNCONCEPT_STORE": str(tmp_path / name / "store"), "OMP_NUM_THREADS": "1"},
            out,
        )

    words, env, out = place("whole")
    begun = time.monotonic()
    assert subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0
    whole, seconds = untimed(out), time.monotonic() - begun
    rng = random.Random(0)
    for trial in range(TRIALS):
        words, env, out = place(f"trial-{trial}")
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.wait()
        finished = subprocess.run([*words, "--overwrite"], env=env, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        assert untimed(out) == whole, f"trial {trial}"
