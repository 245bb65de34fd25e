"""Closed-form jobs at the shape of SD 1.4, ours against each paper's own loop in the same run: `make bench`.

Random weights, one thread, CPU seconds; every job in a process of its own, after one that warms the caches of files.
Both write what they found. The loops take a quarter of an hour together: name jobs to run some of them alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.children import Cost, measured
from benchmarks.names import names

PLACE = Path("out/shapes/sd14")
MANY = {"retain_scale": 0.05, "threshold": 1e-4, "disable_filter": True}  # SPEED's settings for 10 to 100 celebrities
HEAD = ("job", "", "ours, CPU s", "paper's loop, CPU s", "ratio", "ours, GiB", "loop, GiB", "apart")


@dataclass(frozen=True)
class Job:
    """A method with so many made-up concepts, and as many retained names or the texts given."""

    title: str
    method: str
    concepts: int
    anchor: str
    retained: int | tuple[str, ...] = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def texts(self, file: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Targets and retained texts."""
        count = self.retained if isinstance(self.retained, int) else 0
        found = names(self.concepts + count, file)
        return found[: self.concepts], self.retained if isinstance(self.retained, tuple) else found[self.concepts :]


JOBS = {
    "uce-1": Job("UCE, 1 concept", "uce", 1, "art"),
    "uce-100": Job("UCE, 100 concepts, nothing retained", "uce", 100, "art"),
    "uce-100-retain": Job("UCE, 100 concepts, 1,634 names retained", "uce", 100, "art", 1634),
    "speed-100": Job("SPEED, 100 concepts, 100 names retained", "speed", 100, "person", 100, MANY),
    "speed-1": Job("SPEED, 1 concept, 1,733 names retained, filter on", "speed", 1, "art", 1733),
    "rece-10": Job(
        "RECE, 10 concepts, 1 round, from the pristine model", "rece", 10, " ", (" ",), {"epochs": 1, "start": "none"}
    ),
}


@dataclass(frozen=True)
class Run:
    """One job done once: CPU seconds after imports, and from outside."""

    seconds: float
    whole: Cost


def run(name: str, by: str, model: Path, file: Path | None) -> Run:
    """In a process of its own."""
    words = ["benchmarks.speed", name, "--by", by, "--model", str(model), *(["--names", str(file)] if file else [])]
    cost = measured(words)
    return Run(float(json.loads(cost.said.splitlines()[-1])["seconds"]), cost)


def do(name: str, by: str, model: Path, file: Path | None) -> float:
    """The job itself: CPU seconds from the first look at the model to the file written."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.papers import LOOPS
    from unconcept.core.request import Request
    from unconcept.erasing.make_edit import make_edit
    from unconcept.erasing.request_defaults import ResolvedRequest
    from unconcept.methods import methods
    from unconcept.models import open_model

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    begun, job = time.process_time(), JOBS[name]
    targets, retain = job.texts(file)
    request, view = (
        Request(targets, (job.anchor,) * len(targets), retain),
        open_model(str(model), device="cpu", dtype="float32"),
    )
    if by == "ours":
        make_edit(view, ResolvedRequest(request, (), {}), job.method, job.settings).save(written(model, name, by))
    else:
        found = LOOPS[job.method](view, request, methods[job.method].settings(**job.settings))
        save_file(dict(found), written(model, name, by))
    return time.process_time() - begun


def written(model: Path, name: str, by: str) -> Path:
    return model.parent / f"{name}-{by}.safetensors"


def apart(model: Path, name: str) -> float:
    """How far the two results are from each other, relative to the loop's: over all maps."""
    from safetensors.torch import load_file

    from unconcept.edits import load_edit
    from unconcept.models import open_model

    edit, loop = load_edit(written(model, name, "ours")), load_file(written(model, name, "paper"))
    own = open_model(str(model), device="cpu").reference(edit.names)
    squares = [
        (float((edit.delta(key, own[key]) - loop[key]).square().sum()), float(loop[key].square().sum()))
        for key in edit.names
    ]
    return (sum(one for one, _ in squares) / sum(other for _, other in squares)) ** 0.5


def row(name: str, model: Path, file: Path | None, rounds: int) -> list[tuple[str, ...]]:
    """Ours `rounds` times, the loop once in their midst; medians."""
    half = rounds // 2
    before = [run(name, "ours", model, file) for _ in range(half)]
    loop = run(name, "paper", model, file)
    ours = before + [run(name, "ours", model, file) for _ in range(rounds - half)]
    peaks = f"{max(one.whole.gib for one in ours):.2f}", f"{loop.whole.gib:.2f}"
    lines = []
    for counted in ("from process start", "after imports"):
        fast = statistics.median(one.whole.seconds if counted == "from process start" else one.seconds for one in ours)
        slow = loop.whole.seconds if counted == "from process start" else loop.seconds
        lines.append((JOBS[name].title, counted, f"{fast:.2f}", f"{slow:.1f}", f"{slow / fast:.1f}", *peaks))
    return lines


def show(lines: Sequence[Sequence[str]]) -> None:
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"all by default: {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=int, default=3, help="of ours; a loop runs once")
    parser.add_argument("--names", type=Path, help="file with a name a line, instead of made-up ones")
    parser.add_argument(
        "--vocabulary", type=Path, help="CLIP's bpe_simple_vocab_16e6.txt.gz, where open_clip_torch is not installed"
    )
    parser.add_argument(
        "--model", type=Path, default=PLACE, help="the folder of random weights; it is written if it is not there"
    )
    # a process that is measured.
    parser.add_argument("--by", choices=("ours", "paper", "apart", "build"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.jobs) - set(JOBS):
        parser.error(f"no job {min(unknown)!r}: allowed are {', '.join(JOBS)}")
    if args.by == "build":
        from benchmarks.shapes import build

        build("sd14", args.model, args.vocabulary, whole=False)
    elif args.by == "apart":
        print(apart(args.model, args.jobs[0]))
    elif args.by:
        print(json.dumps({"seconds": do(args.jobs[0], args.by, args.model, args.names)}))
    else:
        compare(args.jobs or list(JOBS), args.model, args.names, args.rounds, args.vocabulary)


def compare(jobs: Sequence[str], model: Path, file: Path | None, rounds: int, vocabulary: Path | None) -> None:
    """This process stays small: what is measured begins as its image."""
    given = ["--vocabulary", str(vocabulary)] if vocabulary else []
    measured(["benchmarks.speed", "--by", "build", "--model", str(model), *given])
    run("uce-1", "ours", model, file)
    show([HEAD, ("---",) * len(HEAD)])
    for name in jobs:
        lines = row(name, model, file, rounds)
        distance = float(
            measured(["benchmarks.speed", name, "--by", "apart", "--model", str(model)]).said.splitlines()[-1]
        )
        show([(*line, f"{distance:.1e}") for line in lines])


if __name__ == "__main__":
    main()
