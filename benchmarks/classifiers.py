"""Methods in the setting of their own papers, classifiers: `python -m benchmarks.classifiers [--out DIR] [--docs DIR]`.

Trains small networks on scikit-learn's digits and on drawings of `moji`, and writes `docs/classifiers.md`. Every trial
is kept as soon as it is done, so the same command goes on after being stopped; one whose code has changed is done anew.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch

from unconcept.core.errors import DataError
from unconcept.core.source import source_hash

from . import classifier_page, classifier_trials
from .classifier_data import DIGITS, DRAWINGS, Split, digits, drawings

SEEDS = (0, 1, 2)
THREADS = 1  # so that figures do not depend on the machine's cores
_TRIALS = "benchmarks.classifier_trials"


NETWORKS = ("vit", "cnn")
Run = Callable[[], classifier_trials.Figures]


def trials(folder: Path) -> Iterator[tuple[str, Run]]:
    """All trials by name."""
    for name, network, seed in product((DIGITS, DRAWINGS), NETWORKS, SEEDS):
        where, split = (network, seed), partial(data, name, seed, folder)
        yield f"base/{name}/{network}/{seed}", partial(_on, split, classifier_trials.base_figures, *where)
        for method in classifier_trials.METHODS:
            run = partial(_on, split, classifier_trials.sequence_figures, network, method, seed)
            yield f"sequence/{method}/{name}/{network}/{seed}", run
    for alpha, warm_up in classifier_trials.SPARSITY_ROWS:
        run = partial(_on, partial(digits, 0), classifier_trials.sparsity_figures, alpha, warm_up, 0)
        yield f"sparsity/{alpha:g}/{warm_up}", run
    for seed in SEEDS:
        split = partial(digits, seed)
        yield f"teacher/{seed}", partial(_on, split, classifier_trials.teacher_figures, seed)
        for form, robust in product(("plain", "remove", "augment"), (False, True)):
            run = partial(_on, split, classifier_trials.dom_figures, form, robust, seed)
            yield f"dom/{form}/{'robust' if robust else 'natural'}/{seed}", run
        for p in (0.0, 0.5):
            yield f"erasing/{p:g}/{seed}", partial(_on, split, classifier_trials.erasing_figures, p, seed)
    yield "deletion", partial(_on, partial(digits, 0), classifier_trials.deletion_figures, 0)


def data(name: str, seed: int, folder: Path) -> Split:
    return digits(seed) if name == DIGITS else drawings(seed, folder)


def _on(
    split: Callable[[], Split], run: Callable[..., classifier_trials.Figures], *given: object
) -> classifier_trials.Figures:
    """Load the data only when a trial is run."""
    return run(split(), *given)


def measured(path: Path, run: Run, may_run: bool) -> tuple[classifier_trials.Figures, float] | None:
    """The figures of a trial and its seconds, kept or computed; None if it may not be run, or has no data."""
    source = source_hash(_TRIALS)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["source"] == source:
            return kept["figures"], kept["seconds"]
    if not may_run:
        return None
    begun = time.process_time()
    try:
        figures = run()
    except DataError as error:
        print(error)
        return None
    seconds = time.process_time() - begun
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"source": source, "seconds": seconds, "figures": figures}
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    return figures, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/classifiers"), help="where trials are kept")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--only", default="", help="trials whose name begins with this; no page is written")
    parser.add_argument(
        "--max-minutes", type=float, default=float("inf"), help="of this process; the page says what is missing"
    )
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    found, seconds = {}, 0.0
    chosen = [(name, run) for name, run in trials(args.out) if name.startswith(args.only)]
    for name, run in chosen:
        one = measured(args.out / f"{name}.json", run, time.process_time() < 60 * args.max_minutes)
        if one is not None:
            found[name], seconds = one[0], seconds + one[1]
            print(f"{name}: {one[1]:.1f} s", flush=True)
    print(f"{len(found)} of {len(chosen)} trials are there")
    if not args.only:
        page = classifier_page.page(found, seconds, len(chosen) - len(found))
        (args.docs / "classifiers.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
