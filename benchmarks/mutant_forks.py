"""Runs pytest on a copy of the package, in forks of a process that has imported what every test waits for.

Each line of the input is JSON, `{"src": folder, "words": [...], "seconds": n}`; each line of the output is the exit
code and the CPU seconds. A run that takes more CPU seconds than it may is ended by its signal: the code is negative.
What a run printed stands in `tests.log` beside `src`.
"""

import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "safetensors.torch",
    "transformers",
    *(
        f"diffusers.pipelines.{family}.pipeline_{name}"
        for family, name in (
            ("stable_diffusion", "stable_diffusion"),
            ("stable_diffusion_xl", "stable_diffusion_xl"),
            ("stable_diffusion_3", "stable_diffusion_3"),
            ("flux", "flux"),
        )
    ),
)


def run_tests(src: str, words: list[str], seconds: int) -> int:
    """Run pytest on the package in `src`."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with Path(src).with_name("tests.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.path.insert(0, src)
    os.environ["PYTHONPATH"] = os.pathsep.join((src, os.getcwd()))
    # Plugins whose modules are here already cannot be rewritten, which is no fault.
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return pytest.main([*quiet, *words])


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    assert not any(name.startswith("unconcept") for name in sys.modules)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 70  # Whatever ends the run.
            try:
                code = run_tests(**json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)


if __name__ == "__main__":
    main()
