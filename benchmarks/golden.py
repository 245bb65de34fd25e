"""Compares what the library computes with the values of `golden.json` and `golden-tests.txt`.

    python -m benchmarks.golden                  recompute all, compare; exit 1 and the names of what differs
    python -m benchmarks.golden --only losses    one part (repeat the option for more)
    python -m benchmarks.golden --write          write what was found, of all parts or of those named by --only

Never use `--write` in a commit that only moves or renames code: this shows that such a commit changes no value. A
commit that changes a value on purpose writes it, and its message says which values changed and why.

Values are hashes of exact bits on one thread. They hold for the library versions and the kind of CPU that stand beside
them; elsewhere, write all values on the commit before your change first. Each part runs in a process of its own:

- `edits-tiny`: every method's edit on a tiny model of each of its families, under the tests' quick settings: a hash of
  its tensors, and one of all its content but its origin.
- `edits-moji`: the same on `moji` for an object, under the `moji` recipe; closed forms and steering for a style too.
  Trained methods stop after a few steps. What takes many drawings is left out: SLUG does not judge drawn pictures,
  and UCE-debias is given counts that nobody drew.
- `losses`: the first three losses of every training on the tiny SD 1, or on the first of its families.
- `ledger`: the entries, requests and folded states of ledgers of every rule.
- `attacks-tiny`: everything that each attack finds on tiny models.
- `tests`: ids of all tests. A test that moves to another file is the same test; one that vanishes is a difference.
- `marks`: counts of what should become less; a count that grows is a difference.
"""

import argparse
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.children import measured
from benchmarks.golden_marks import marks

FILE, TESTS = Path(__file__).with_name("golden.json"), Path(__file__).with_name("golden-tests.txt")
ROOT = Path(__file__).parent.parent
COMPUTED = ("edits-tiny", "edits-moji", "losses", "ledger", "attacks-tiny")
PARTS = (*COMPUTED, "tests", "marks")
COLLECT = ("pytest", "--collect-only", "-q", "-m", "", "-o", "addopts=--strict-markers", "-p", "no:cacheprovider")
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}  # of the processes that compute
LIBRARIES = ("diffusers", "numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")

Values = Mapping[str, str | int]


@dataclass(frozen=True)
class Comparison:
    """Differences are faults; what is new is none, but nothing holds it yet."""

    differences: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def compare_values(known: Values, found: Values) -> Comparison:
    """By name: values that changed or are gone, and names that nobody wrote down."""
    changed = [name for name, value in known.items() if found.get(name, value) != value]
    gone = tuple(f"{name}: gone" for name in known if name not in found)
    return Comparison((*_differences(changed, known, found), *gone), _new(known, found))


def compare_marks(known: Values, found: Values) -> Comparison:
    """Counts that grew. A mark that is counted for the first time is new."""
    grown = [name for name, count in found.items() if name in known and int(count) > int(known[name])]
    return Comparison(_differences(grown, known, found), _new(known, found))


def _differences(names: Sequence[str], known: Values, found: Values) -> tuple[str, ...]:
    return tuple(f"{name}: {found[name]}, was {known[name]}" for name in names)


def _new(known: Values, found: Values) -> tuple[str, ...]:
    return tuple(name for name in found if name not in known)


def compare_tests(known: Sequence[str], found: Sequence[str]) -> Comparison:
    """Ids by their part after the file's name: as many of each as there were."""
    before, now = Counter(map(_after_file, known)), Counter(map(_after_file, found))
    vanished, new = before - now, now - before
    return Comparison(_named(known, vanished), _named(found, new))


def _after_file(name: str) -> str:
    return name.partition("::")[2]


def _named(names: Sequence[str], wanted: Counter[str]) -> tuple[str, ...]:
    """So many full ids of each wanted part, the first of several files that hold it."""
    left, found = wanted.copy(), []
    for name in names:
        if left[_after_file(name)] > 0:
            left[_after_file(name)] -= 1
            found.append(name)
    return tuple(found)


def environment() -> dict[str, str]:
    """What the last bits of a value depend on."""
    found = {name: version(name) for name in LIBRARIES}
    return found | {"machine": platform.machine(), "instructions": torch.backends.cpu.get_cpu_capability()}


def collect_tests() -> tuple[list[str], float]:
    """Sorted ids and CPU seconds. A test over source files counts once, since files may be renamed."""
    cost = measured(COLLECT)
    ids = {re.sub(r"\[[\w/]+\.py\]$", "[*.py]", line) for line in cost.said.splitlines() if "::" in line}
    return sorted(ids), cost.seconds


def compute(part: str) -> tuple[Values, float]:
    """Values by name and CPU seconds."""
    if part == "marks":
        return marks(ROOT), 0.0
    cost = measured(("benchmarks.golden_values", part))
    return json.loads(cost.said.splitlines()[-1]), cost.seconds


def check(part: str, known: dict[str, dict[str, str | int]], write: bool) -> Comparison:
    """Recompute a part; what is found stands in `known` afterwards if it is to be written."""
    if part == "tests":
        ids, seconds = collect_tests()
        before = TESTS.read_text(encoding="utf-8").splitlines() if TESTS.exists() else []
        compared, count = compare_tests(before, ids), len(ids)
        if write:
            TESTS.write_text("\n".join(ids) + "\n", encoding="utf-8")
    else:
        found, seconds = compute(part)
        comparison = compare_marks if part == "marks" else compare_values
        compared, count = comparison(known.get(part, {}), found), len(found)
        if write:
            known[part] = dict(sorted(found.items()))
    print(f"{part}: {count} values, {seconds:.0f} s of the CPU", flush=True)
    return compared


def report(part: str, compared: Comparison) -> None:
    """One line a difference."""
    for line in compared.differences:
        print(f"  differs: {line}")
    for line in compared.new:
        print(f"  new: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write; never in a commit that only moves code")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"one of {', '.join(PARTS)}")
    asked = parser.parse_args()
    os.environ |= QUIET
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    here, there = environment(), known.get("environment", {})
    parts = asked.only or PARTS
    if there and here != there and not (asked.write and parts == PARTS):
        apart = "; ".join(compare_values(there, here).differences)
        if asked.write:
            raise SystemExit(f"values of two environments do not mix ({apart}): write all parts")
        print(f"the values were written elsewhere, last bits may differ: {apart}")
    differences = 0
    for part in parts:
        compared = check(part, known, asked.write)
        report(part, compared)
        differences += len(compared.differences)
    if asked.write:
        FILE.write_text(json.dumps(known | {"environment": here}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"written, {differences} differences")
    elif differences:
        raise SystemExit(f"{differences} differences")


if __name__ == "__main__":
    main()
