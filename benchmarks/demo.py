"""The main job on an object, a style and a harmful object: `make demo`.

What was drawn is kept until the end, so the same command goes on after being stopped; a finished demo is drawn anew.
"""

import argparse
import shutil
import sys
from pathlib import Path

from unconcept.cli.console import EXIT_FAILED, exit_codes, print_table, progress, quiet_libraries

CONCEPTS = ("dog face", "ink", "kitchen knife")
MOST_LEFT = 0.10  # of a target's pictures that may still show it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    out: Path = parser.parse_args().out
    quiet_libraries()
    from unconcept.evaluation.trials.report import group_rows as group_rows
    from unconcept.evaluation.trials.report import judge_calibration
    from unconcept.jobs.command_options import EraseOptions
    from unconcept.jobs.erase import erase
    from unconcept.jobs.resolve import plan_job

    rows, reports, left, found, drawn = [], [], [], [], out / "drawn"
    for concept in CONCEPTS:
        print(f"erasing {concept!r} from moji", flush=True)
        folder = out / concept.replace(" ", "-")
        with exit_codes(), progress(quiet=False) as tell:
            options = EraseOptions(concepts=concept, out=folder, overwrite=True, store=drawn)
            outcome = erase(plan_job(options).job, tell)
        found += outcome.report.findings
        groups = {row.group: row for row in group_rows(outcome.report.findings[0])}
        cells = [_cell(groups.get(group)) for group in ("direct", "synonym", "near", "far", "style")]
        seconds = outcome.report.circumstances["seconds"]
        size = (folder / "edit.safetensors").stat().st_size
        nothing = groups["direct"].nothing.value
        rows.append((concept, *cells, f"{nothing:.0%}", f"{seconds['edit']:.1f} / {seconds['total']:.0f}", f"{size:,}"))
        reports.append(folder / "report.html")
        left += [f"{concept}: {outcome.failures[0]}"] if outcome.failures else []
        if groups["direct"].after.value > MOST_LEFT:
            left.append(f"{concept} is still drawn in {groups['direct'].after.value:.0%} of its prompts")
    shutil.rmtree(drawn)
    columns = ("erased", "target", "synonyms", "near", "far", "other styles", "nothing", "s edit / all", "bytes")
    print_table("Share of pictures that show what the prompt asks, before -> after (pictures)", columns, rows)
    print(judge_calibration(found))
    print("Reports, pictures first:", *reports, sep="\n  ")
    for line in left:
        print(f"demo: FAILED: {line}", file=sys.stderr)
    if left:
        raise SystemExit(EXIT_FAILED)


def _cell(row) -> str:
    return "n/a" if row is None else f"{row.before.value:.0%} -> {row.after.value:.0%} ({row.after.n})"


if __name__ == "__main__":
    main()
