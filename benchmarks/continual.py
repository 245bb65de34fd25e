"""Requests one by one, by every remedy (the experiment of arXiv:2511.07970 on `moji`): `make continual`.

Each trained edit, each picture and each judged point is kept, so the same command goes on after being stopped at any
time. A part can be run by `--sequences`, `--methods`, `--arms` and `--steps`; regularisers are chosen with `--tune`, on
tune objects.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.continual_page import CLOSED, SHARES, page
from unconcept.cli.console import EXIT_FAILED, exit_codes, progress, quiet_libraries

OUT = Path("out/continual")
STEPS, TUNED, FAR = (1, 2, 3, 6, 9, 12), (1, 3, 5), (1, 3, 10, 30, 100)  # requests after which it is drawn
GRID, BESIDE = "concept-ablation", ("esd", "erasediff", "sculpting-memory")
FEW = 12


@dataclass(frozen=True)
class Asked:
    """What of the experiment is run, and how finely."""

    sequences: tuple[str, ...]
    methods: tuple[str, ...]
    arms: tuple[str, ...] | None
    steps: tuple[int, ...]
    n: int  # prompts of a concept
    cut: int | None  # iterations of each training, for a quick look
    tune: bool
    many: bool
    best: str | None  # the remedy that is tried elsewhere too


def sequences(tune: bool = False, many: bool = False) -> dict[str, tuple[str, ...]]:
    """Objects spread evenly over the table, and all erasable styles, of the split that is asked for."""
    from unconcept.worlds.table import concept_table

    part = [
        entry for entry in concept_table().entries if entry.erasable and entry.split == ("tune" if tune else "report")
    ]
    objects = [entry.name for entry in part if entry.kind == "object"]
    styles = [entry.name for entry in part if entry.kind == "style"]
    count = len(objects) if many else min(FEW, len(objects) // 4 if tune else FEW)
    found = tuple(objects[i * len(objects) // count] for i in range(count))
    if many:
        return {f"{count}-objects": found}
    return {"objects": found} if tune else {"objects": found, "styles": tuple(styles)}


def arms_of(sequence: str, method: str, asked: Asked) -> list:
    """The full grid where the remedies are compared; elsewhere plain, at once and the best of them."""
    from benchmarks.sequences import closed, grid

    if method in CLOSED:
        every = closed(method, asked.tune)
        return [arm for arm in every if arm.rule == "ledger"] if asked.many else every
    every = grid(method, asked.tune)
    if asked.tune or (sequence, method) == ("objects", GRID):
        return every
    return [arm for arm in every if arm.label in ("sequential", "simultaneous", asked.best)]


def best(tuned: Sequence[Mapping[str, Any]]) -> str | None:
    """The remedy of the full grid with the highest H after the longest sequence of tune objects; None while there is
    none.
    """
    from benchmarks.sequences import grid

    remedies = {arm.label for arm in grid()[2:]}
    tried = [point for point in tuned if point["method"] == GRID and point["arm"] in remedies]
    last = max((point["step"] for point in tried), default=0)
    return max(
        (point for point in tried if point["step"] == last),
        key=lambda point: point["figures"]["H"]["value"],
        default={"arm": None},
    )["arm"]


def read(path: Path) -> list[dict[str, Any]]:
    """Points that were finished. A line that a kill cut off is taken out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def courses(asked: Asked, out: Path) -> Iterator[tuple[str, Any, list[int]]]:
    """Each sequence with each arm on it, and the numbers of requests after which it is drawn."""
    from benchmarks.sequences import Course

    for sequence, names in sequences(asked.tune, asked.many).items():
        steps = [k for k in asked.steps if k <= len(names)]
        for method in asked.methods if asked.many or sequence in asked.sequences else ():
            for arm in arms_of(sequence, method, asked):
                if asked.arms is None or arm.label in asked.arms:
                    yield sequence, Course(arm, names, out / sequence, asked.cut), steps


def measure(asked: Asked, out: Path, deadline: float | None, tell: Any) -> tuple[list[dict[str, Any]], int]:
    """Every point of what is asked, and how many are missing because time ran out."""
    points, missing, wanted = read(out / "points.jsonl"), 0, list[dict[str, Any]]()
    for sequence, course, steps in courses(asked, out):
        for k in steps:
            point = judged(course, sequence, k, asked, out, deadline, tell, points)
            missing += point is None
            wanted += [] if point is None else [point]
    return wanted, missing


def save_sheets(asked: Asked, out: Path, docs: Path, tell: Any) -> dict[tuple[str, str], str]:
    """Write a contact sheet of each sequence and method: the first arm after each step, the others after the last.

    Return what is on each, as Markdown.
    """
    from benchmarks.continual_sheet import NAME, save_sheet
    from benchmarks.sequences import BASE
    from unconcept.core.output_folder import default_store
    from unconcept.evaluation.sampling import spec_for
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.prompts.checks import GroupSizes

    states: dict[tuple[str, str], list[tuple[str, Callable[[], EditedModel]]]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for sequence, course, steps in courses(asked, out):
        known = states.setdefault((sequence, course.arm.method), [("unedited", lambda: BASE)])
        names[sequence] = course.names
        for k in steps if len(known) == 1 else steps[-1:]:
            subject = partial(lambda course, k: EditedModel.of(BASE, course.state(k, tell)[0]), course, k)
            known.append((f"{course.arm.label} after {k}", subject))
    sizes, spec = GroupSizes(asked.n, asked.n, tuning=asked.tune), spec_for(BASE.model)
    store, found = PictureStore(default_store()), {}
    for (sequence, method), own in states.items():
        path = docs / NAME.format(sequence, method)
        found[sequence, method] = save_sheet(path, names[sequence], own, sizes, spec, store)
    return found


def judged(
    course: Any, sequence: str, k: int, asked: Asked, out: Path, deadline: float | None, tell: Any, points: list
) -> dict[str, Any] | None:
    """One point of a curve, kept as a line once it is whole; None if time ran out before."""
    from benchmarks.sequences import BASE
    from unconcept.core.hashing import hash_json
    from unconcept.core.output_folder import default_store
    from unconcept.evaluation.judging.judge import Judge
    from unconcept.evaluation.sampling import spec_for
    from unconcept.evaluation.suites.continual import fixed_sequence_checks
    from unconcept.evaluation.suites.registry import suites
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.evaluation.tasks.runner import TaskRecord
    from unconcept.evaluation.trials.bench import examine_trials, trial_of_edit
    from unconcept.evaluation.trials.trial import RunContext
    from unconcept.ledger.drift import weight_change
    from unconcept.prompts.checks import GroupSizes

    sizes, spec = GroupSizes(asked.n, asked.n, tuning=asked.tune), spec_for(BASE.model)
    suite = replace(suites["continual"], sizes=sizes, ask=partial(fixed_sequence_checks, course.names))
    key = hash_json([course.key(k), BASE.key, str(sizes), str(spec)])
    for known in points:
        if known["key"] == key:
            return {**known, "sequence": sequence}  # Two sequences can begin alike.
    if deadline is not None and time.monotonic() > deadline:
        return None
    path, seconds = course.state(k, tell)
    trial = trial_of_edit(path, BASE, course.names[:k])
    store, record = PictureStore(default_store()), TaskRecord(out / "record.sqlite")
    context = RunContext(store, record, spec, Judge("moji-judge"), deadline=deadline, tell=tell)
    (found,), _ = examine_trials([trial], suite, context)
    if not found.figures:
        return None
    point = {
        **{"key": key, "sequence": sequence, "method": course.arm.method, "arm": course.arm.label, "step": k},
        **{"seconds": round(seconds, 2), "drift": weight_change(BASE.base(), trial.edit)[0], "edit": trial.edit.hash},
        "figures": {figure.name: vars(figure) for figure in found.figures},
    }
    with (out / "points.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(point) + "\n")
    points.append(point)
    return point


def main() -> None:
    from unconcept.cli.console import print_table

    args = parsed(sys.argv[1:])
    quiet_libraries()
    steps = args.steps or (TUNED if args.tune else FAR if args.many else STEPS)
    out, remedy = (
        args.out / ("tune" if args.tune else "report"),
        args.best or best(read(args.out / "tune" / "points.jsonl")),
    )
    methods = args.methods or (CLOSED if args.many else (GRID,) if args.tune else (GRID, *BESIDE, *CLOSED))
    asked = Asked(args.sequences, methods, args.arms, steps, args.n, args.iterations, args.tune, args.many, remedy)
    if remedy is None and not (args.tune or args.many):
        print(
            "no remedy is known to be the best: other methods and styles run without one; run --tune first, or name"
            " --best",
            file=sys.stderr,
        )
    deadline = None if args.max_minutes is None else time.monotonic() + 60 * args.max_minutes
    with exit_codes(), progress(quiet=False) as tell:
        out.mkdir(parents=True, exist_ok=True)
        points, missing = measure(asked, out, deadline, tell)
    rows = []
    for point in points:
        shares = [f"{point['figures'][name]['value']:.1%}" for name in (*SHARES, "H")]
        rows.append((point["sequence"], point["method"], point["arm"], str(point["step"]), *shares))
    print_table("Continual erasure", ("sequence", "method", "arm", "requests", *SHARES, "H"), rows)
    if missing:
        print(f"PARTIAL: {missing} points are missing; the same command goes on from here", file=sys.stderr)
        raise SystemExit(EXIT_FAILED)
    if points and not asked.tune and asked.cut is None:
        args.docs.mkdir(exist_ok=True)
        with exit_codes(), progress(quiet=False) as tell:
            sheets = {} if asked.many else save_sheets(asked, out, args.docs, tell)
        (args.docs / f"continual{'-many' if asked.many else ''}.md").write_text(
            page(points, asked.n, args.docs, asked.many, sheets), encoding="utf-8"
        )


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    named = lambda text: tuple(part.strip() for part in text.split(","))  # noqa: E731
    numbers = lambda text: tuple(sorted({int(part) for part in text.split(",")}))  # noqa: E731
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sequences", type=named, default=("objects", "styles"))
    parser.add_argument("--methods", type=named)
    parser.add_argument("--arms", type=named, help="labels, separated by commas; every one by default")
    parser.add_argument("--steps", type=numbers, help="after how many requests to draw")
    parser.add_argument("--n", type=int, default=8, help="pictures of a concept")
    parser.add_argument(
        "--iterations", type=int, help="of each training, for a quick look that writes no page; the recipe's by default"
    )
    parser.add_argument(
        "--best", help="the remedy that other methods and styles are tried with; by default the best on tune objects"
    )
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument(
        "--tune", action="store_true", help="candidates of benchmarks/continual.toml on tune objects and seeds"
    )
    parser.add_argument("--many", action="store_true", help="all report objects, by the closed forms' ledgers alone")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
