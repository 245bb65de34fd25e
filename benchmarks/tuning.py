"""Settings for `moji` recipes: candidates on tune concepts, given words and seeds of their own: `python -m
benchmarks.tuning --methods rece`.

One edit a concept, or with `--together` one edit of all tune objects. Nothing else may choose settings. What was drawn
is kept, so the same command goes on after being stopped. Counts of edits of one concept are kept in the repository
(`benchmarks.tuning_log`), those of another run's report with `--keep report.json`; `--keep` alone writes the page anew.
"""

import argparse
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from unconcept.cli.console import EXIT_FAILED, exit_codes, progress, quiet_libraries
from unconcept.core.errors import UnconceptError
from unconcept.worlds.registry import DEFAULT_MODEL

from . import tuning_log
from .report_concepts import require_tune, spread
from .workload import Work, estimate

CANDIDATES = Path(__file__).with_name("candidates.toml")
OBJECTS = 4  # beside both styles and the harmful objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="separated by commas")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="embedded model, whose candidates begin with its name")
    parser.add_argument("--prompts", type=int, help="of each group at most")
    parser.add_argument("--limit", type=int, help="concepts at most, spread over the kinds")
    parser.add_argument("--concepts", help="tune concepts, separated by commas, in place of those that are spread")
    parser.add_argument("--together", action="store_true", help="erase the concepts, or all tune objects, by one edit")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="NAME=VALUE of every candidate, VALUE in TOML"
    )
    parser.add_argument("--keep", type=Path, nargs="*", metavar="REPORT", help="keep these reports and measure nothing")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--max-minutes", type=float)
    args = parser.parse_args()
    if (args.methods is None) == (args.keep is None):
        parser.error("give either --methods or --keep")
    quiet_libraries()
    for path in args.keep or ():
        report = json.loads(path.read_text(encoding="utf-8"))
        print(f"{path}: kept", ", ".join(tuning_log.keep(report, tuning_log.folder_of(args.model))))
    status = "ok" if args.methods is None else measure(args, parser)
    tuning_log.write_page(args.docs, args.model)
    if status != "ok":
        raise SystemExit(EXIT_FAILED)


def measure(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Make the edits and keep their counts; the status of the run."""
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun

    settings = tomllib.loads("\n".join(args.settings))
    arms = tuple(arm for name in args.methods.split(",") for arm in candidates(name, settings, args.model))
    chosen = tune_objects()[: args.limit] if args.together else spread("tune", OBJECTS, args.limit)
    if args.concepts:
        chosen = tuple(args.concepts.split(","))
    try:
        require_tune(chosen)
    except UnconceptError as error:
        parser.error(str(error))
    run = EvaluationRun(
        chosen,
        Path("out") / tuning_log.folder_of(args.model).name,
        variants=arms,
        joint_requests=(chosen,) if args.together else (),
        suite="tuning-together" if args.together else "tuning",
        max_minutes=args.max_minutes,
        overwrite=True,
        model=args.model,
        limit=args.prompts,
    )
    print(estimate([Work(run.suite, arm, run.requests, args.prompts, args.model) for arm in arms]), flush=True)
    with exit_codes(), progress(quiet=False) as tell:
        report = evaluate(run, tell)
    print((run.out / "results.md").read_text(encoding="utf-8"))
    if not args.together:
        tuning_log.keep(report.data(), tuning_log.folder_of(args.model))
    return report.status


def tune_objects() -> tuple[str, ...]:
    """All tune objects that can be erased."""
    from unconcept.worlds.table import concept_table

    return tuple(
        entry.name
        for entry in concept_table().entries
        if entry.erasable and entry.split == "tune" and entry.kind == "object"
    )


def candidates(method: str, settings: Mapping[str, object] | None = None, model: str = DEFAULT_MODEL) -> list:
    """The method's recipe, and what is tried beside it: each candidate changes that; `settings` holds for all."""
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    own = variant_of_method(method, model).changed(method, settings or {})
    key = method if model == DEFAULT_MODEL else f"{model}-{method}"
    tried = tomllib.loads(CANDIDATES.read_text(encoding="utf-8")).get(key, [])
    found = [own]
    for each in tried:
        label = f"{method}: " + ", ".join(f"{name} {value}" for name, value in each.items())
        found.append(own.changed(label, each))
    return found


if __name__ == "__main__":
    main()
