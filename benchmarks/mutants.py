"""Plants faults in the trained methods and lists those that no test sees: `python -m benchmarks.mutants --methods esd`.

The faults stand in mutants.toml. Each is planted in a copy of the package, on which the fast tests of its method run up
to the first that fails. Outcomes are kept, so an interrupted command goes on where it stopped, and a fault is planted
anew once its method's source or tests have changed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unconcept.core.hashing import hash_json
from unconcept.core.output_folder import write_atomically
from unconcept.methods import methods

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutants.toml")
PACKAGE = "src/unconcept"
USUAL_SECONDS = 6.0  # CPU seconds of one run where none is known yet.
LONGEST = 300  # CPU seconds, after which a run has failed.
NOTHING = "none"  # The run without a fault, which must pass.
PASSED, FAILED = 0, 1  # pytest's exit codes


@dataclass(frozen=True)
class Mutant:
    """An exact replacement of a text that stands once in a file of the package."""

    method: str
    kind: str
    old: str
    new: str
    file: str  # below the package
    tests: tuple[str, ...]  # below the repository's root

    def planted(self) -> str:
        """Return the file's text with the fault.

        Raises SystemExit where its text is not found exactly once.
        """
        text = (ROOT / PACKAGE / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1 and self.kind != NOTHING:
            raise SystemExit(
                f"{self.method}, {self.kind}: {count} times in {self.file}: {self.old!r}; mend mutants.toml"
            )
        return text.replace(self.old, self.new, 1)

    def key(self) -> str:
        """Hash of what the outcome depends on: the fault, the method, the mutated file and the tests."""
        read = (f"{PACKAGE}/{self.file}", f"{PACKAGE}/{_method_file(self.method)}", *self.tests)
        return hash_json([self.old, self.new, *((ROOT / name).read_text(encoding="utf-8") for name in read)])


def is_trained(name: str) -> bool:
    """Whether a method is trained, in all its settings or in some, or takes one step along a gradient."""
    return methods[name].mechanism in ("trained", "one-step") or hasattr(methods[name].settings, "is_trained")


def table() -> dict[str, list[Mutant]]:
    """The faults of each method, after the run without one."""
    found = {}
    for name, rows in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        own = _method_file(name)
        tests = tuple(f"tests/methods/{file}.py" for file in rows.pop("tests", [f"test_{Path(own).stem}"]))
        found[name] = [Mutant(name, NOTHING, "", "", own, tests)]
        for kind, (old, new, *file) in rows.items():
            found[name].append(Mutant(name, kind, old, new, file[0] if file else own, tests))
    return found


def _method_file(name: str) -> str:
    return f"methods/{name.replace('-', '_')}.py"


@contextmanager
def package_copy() -> Iterator[Path]:
    """A copy of the package's sources in a temporary folder; data are links."""

    def copy(source: str, place: str) -> None:
        shutil.copy2(source, place) if source.endswith(".py") else os.symlink(source, place)

    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / "src"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / PACKAGE, src / "unconcept", copy_function=copy, ignore=ignored)
        yield src


class Runner:
    """Runs tests on a copy of the package in which one fault at a time is planted."""

    def __init__(self, src: Path) -> None:
        self.src, self.clock = src, 0
        command = [sys.executable, "-m", "benchmarks.mutant_forks"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, mutant: Mutant) -> tuple[int, float]:
        """Return pytest's exit code, negative if it was ended, and CPU seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        place = self.src / "unconcept" / mutant.file
        plain = place.read_text(encoding="utf-8")
        self._write(place, mutant.planted())
        try:
            words = ["-x", *mutant.tests]
            print(json.dumps({"src": str(self.src), "words": words, "seconds": LONGEST}), file=self.process.stdin)
            self.process.stdin.flush()
            code, seconds = self.process.stdout.readline().split()
        finally:
            self._write(place, plain)
        return int(code), float(seconds)

    def printed(self) -> str:
        """What the last run printed."""
        return self.src.with_name("tests.log").read_text(encoding="utf-8", errors="replace")

    def _write(self, place: Path, text: str) -> None:
        """Compiled modules are known by their source's second and size, so each text has a second of its own."""
        place.write_text(text, encoding="utf-8")
        self.clock += 1
        os.utime(place, (self.clock, self.clock))

    def close(self) -> None:
        """End the process that forks."""
        self.process.communicate()


def outcome(mutant: Mutant, code: int) -> str:
    """Name the end of a run by pytest's exit code."""
    if code == PASSED:
        return "passes" if mutant.kind == NOTHING else "survives"
    return "seen"


def expected_hours(left: list[Mutant], kept: Mapping[str, Mapping[str, object]]) -> float:
    """CPU hours of the runs that are left, from those that are kept of the same method."""
    spent: dict[str, list[float]] = {}
    for row in kept.values():
        spent.setdefault(str(row["method"]), []).append(float(str(row["seconds"])))
    usual = {name: sum(own) / len(own) for name, own in spent.items()}
    return sum(usual.get(mutant.method, USUAL_SECONDS) for mutant in left) / 3600


def run_left(left: list[Mutant], kept: dict[str, dict[str, object]], place: Path) -> None:
    """Plant the faults that are left, and keep each outcome."""
    with package_copy() as src:
        runner = Runner(src)
        try:
            for mutant in left:
                code, seconds = runner.run(mutant)
                if (code != PASSED) if mutant.kind == NOTHING else code > FAILED:
                    raise SystemExit(f"{runner.printed()}\n{mutant.method}, {mutant.kind}: pytest ends with {code}")
                row = {"method": mutant.method, "kind": mutant.kind, "seconds": round(seconds, 1)}
                kept[mutant.key()] = row | {"outcome": outcome(mutant, code)}
                write_atomically(place, json.dumps(kept, indent=1).encode())
                print(f"{mutant.method}, {mutant.kind}: {kept[mutant.key()]['outcome']}, {seconds:.1f} s", flush=True)
        finally:
            runner.close()


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="separated by commas; all trained ones without it")
    parser.add_argument("--out", type=Path, default=Path("out/mutants"), help="where outcomes are kept")
    args = parser.parse_args(words)
    every = table()
    chosen = args.methods.split(",") if args.methods else list(every)
    if unknown := [name for name in chosen if name not in every]:
        parser.error(f"no faults of {', '.join(unknown)}; known: {', '.join(every)}")
    place = args.out / "outcomes.json"
    kept = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    mutants = [mutant for name in chosen for mutant in every[name]]
    for mutant in mutants:
        mutant.planted()  # Raises before anything runs.
    left = [mutant for mutant in mutants if mutant.key() not in kept]
    print(f"{len(left)} of {len(mutants)} runs, {expected_hours(left, kept):.2f} CPU hours", flush=True)
    if left:
        args.out.mkdir(parents=True, exist_ok=True)
        run_left(left, kept, place)
    survivors = [mutant for mutant in mutants if kept[mutant.key()]["outcome"] == "survives"]
    for mutant in survivors:
        print(f"survives: {mutant.method}, {mutant.kind}: {mutant.old!r} -> {mutant.new!r}")
    print(f"{len(survivors)} of {len(mutants) - len(chosen)} faults survive")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
