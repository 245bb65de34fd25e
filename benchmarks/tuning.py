"""Settings for `moji` recipes: candidates on tune concepts, given words and seeds of their own: `python -m
benchmarks.tuning --methods rece`.

Nothing else may choose settings. What was drawn is kept, so the same command goes on after being stopped.
"""

import argparse
import tomllib
from pathlib import Path

from unconcept.cli.console import EXIT_FAILED, exit_codes, progress, quiet_libraries

from .results import spread

CANDIDATES = Path(__file__).with_name("candidates.toml")
OBJECTS = 4  # beside both styles and the harmful objects
EVERY = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", required=True, help="separated by commas")
    parser.add_argument("--limit", type=int, help="concepts at most, spread over the kinds")
    parser.add_argument("--concepts", help="tune concepts, separated by commas, in place of those that are spread")
    parser.add_argument("--max-minutes", type=float)
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.jobs.evaluate import EvaluationRun, evaluate

    arms = tuple(arm for name in args.methods.split(",") for arm in candidates(name))
    chosen = spread("tune", OBJECTS, args.limit)
    if args.concepts:
        chosen = tuple(args.concepts.split(","))
        if others := sorted(set(chosen) - set(spread("tune", EVERY))):
            parser.error(f"{others[0]!r} is no tune concept, and nothing else may choose settings")
    run = EvaluationRun(
        chosen, Path("out/tuning"), variants=arms, suite="tuning", max_minutes=args.max_minutes, overwrite=True
    )
    with exit_codes(), progress(quiet=False) as tell:
        report = evaluate(run, tell)
    print((run.out / "results.md").read_text(encoding="utf-8"))
    if report.status != "ok":
        raise SystemExit(EXIT_FAILED)


def candidates(method: str) -> list:
    """The method's recipe, and what is tried beside it: each candidate changes that."""
    from unconcept.evaluation.tasks.edit_task import Variant, variant_of_method

    own = variant_of_method(method)
    tried = tomllib.loads(CANDIDATES.read_text(encoding="utf-8")).get(method, [])
    found = [own]
    for each in tried:
        label = f"{method}: " + ", ".join(f"{name} {value}" for name, value in each.items())
        found.append(Variant(label, method, {**own.settings, **each}))
    return found


if __name__ == "__main__":
    main()
