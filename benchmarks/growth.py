"""How the time of an edit grows with concepts and with retained names, at the shape of SD 1.4: `python -m
benchmarks.growth`.

Random weights, one thread, CPU seconds of the whole edit after imports. Prints the tables and the fitted exponents, and
draws `growth-concepts.svg` and `growth-retained.svg` into `--docs`. Half an hour on one core; `--methods uce` is enough
for a look.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.children import measured
from benchmarks.names import names
from benchmarks.speed import PLACE, show

CONCEPTS, RETAINED = (1, 10, 100, 1000), (0, 100, 1000, 10_000)
# SPEED retains something always: without names, the null text. RECE reads all 77 states of a text: 10,000 would take
# half an hour.
SETTINGS: Mapping[str, Mapping[str, object]] = {"uce": {}, "speed": {}, "rece": {"epochs": 1, "start": "none"}}
MOST_TEXTS = {"uce": 11_000, "speed": 11_000, "rece": 1100}


def seconds(method: str, concepts: int, retained: int, model: Path, file: Path | None) -> float:
    """CPU seconds of one edit, from the first look at the model to the finished edit."""
    import time

    import torch

    from unconcept.core.request import Request
    from unconcept.erasing.make_edit import make_edit
    from unconcept.erasing.request_defaults import ResolvedRequest
    from unconcept.models import open_model

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    found = names(concepts + retained, file)
    request = Request(found[:concepts], ("person",) * concepts, found[concepts:])
    begun = time.process_time()
    make_edit(
        open_model(str(model), device="cpu", dtype="float32"),
        ResolvedRequest(request, (), {}),
        method,
        SETTINGS[method],
    )
    return time.process_time() - begun


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """p of t - t_0 = a (x - x_0)^p, by least squares of logarithms: what the first point costs, others cost too."""
    (x_0, t_0), *rest = points
    xs, ys = [math.log(x - x_0) for x, _ in rest], [math.log(max(t - t_0, 1e-3)) for _, t in rest]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(SETTINGS), help="separated by commas")
    parser.add_argument("--names", type=Path, help="file with a name a line, instead of made-up ones")
    parser.add_argument(
        "--vocabulary", type=Path, help="CLIP's bpe_simple_vocab_16e6.txt.gz, where open_clip_torch is not installed"
    )
    parser.add_argument(
        "--model", type=Path, default=PLACE, help="the folder of random weights; it is written if it is not there"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--one", nargs=3, metavar=("METHOD", "CONCEPTS", "RETAINED"), help="measure one edit and print its seconds"
    )
    args = parser.parse_args()
    if args.one:
        method, concepts, retained = args.one
        print(json.dumps(seconds(method, int(concepts), int(retained), args.model, args.names)))
        return
    given = ["--vocabulary", str(args.vocabulary)] if args.vocabulary else []
    measured(["benchmarks.speed", "--by", "build", "--model", str(args.model), *given])
    methods = args.methods.split(",")
    table("concepts", [(k, 0) for k in CONCEPTS], methods, args)
    table("retained", [(1, n) for n in RETAINED], methods, args)


def table(axis: str, counts: Sequence[tuple[int, int]], methods: Sequence[str], args: argparse.Namespace) -> None:
    """One row a method; the chart leaves out what a logarithm cannot show."""
    shown = [f"{max(pair) if axis == 'concepts' else pair[1]:,}" for pair in counts]
    show([("method", *shown, "exponent"), ("---",) * (len(counts) + 2)])
    series = {}
    for method in methods:
        points = []
        for k, n in counts:
            if k + n <= MOST_TEXTS[method]:
                more = ["--names", str(args.names)] if args.names else []
                said = measured(
                    ["benchmarks.growth", "--one", method, str(k), str(n), "--model", str(args.model), *more]
                ).said
                points.append((k if axis == "concepts" else n, float(said.splitlines()[-1])))
        cells = [f"{t:.2f}" for _, t in points] + ["not measured"] * (len(counts) - len(points))
        show([(method, *cells, f"{exponent(points):.2f}")])
        series[method] = [(float(x), t) for x, t in points if x]
    from unconcept.report.svg import growth_svg

    args.docs.mkdir(exist_ok=True)
    (args.docs / f"growth-{axis}.svg").write_text(growth_svg(series, axis, "CPU seconds"), encoding="utf-8")


if __name__ == "__main__":
    main()
