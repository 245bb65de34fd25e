"""`unconcept worst-case`: which candidates are hardest to erase together?"""

from functools import partial
from typing import TYPE_CHECKING

from ..jobs.command_options import WorstCaseOptions
from .console import print_table, progress, say
from .evaluate import announce_run, finish, print_trust
from .options import PrintOptions

if TYPE_CHECKING:
    from ..evaluation.trials.report import Report
    from ..report.data_types import RateData

_COLUMNS = ("set", "members", "shown before", "shown after", "others kept")


def worst_case(options: WorstCaseOptions, shown: PrintOptions) -> None:
    """Search for the set of candidates that is hardest to erase, and compare it with the easiest and random ones."""
    with progress(shown.quiet) as tell:
        from ..jobs.searches.worst_case import find_worst_case, plan_worst_case

        run = plan_worst_case(options)
        erasures = 2 * run.search.outer - 1  # Both searches begin with the same one.
        report = find_worst_case(run, tell, partial(announce_run, tell=tell, erasures=erasures))
    finish(report, run.out, shown, _print)


def _print(report: "Report") -> None:
    from ..evaluation.trials.report import judge_calibration

    sets = report.forget_sets
    if sets is not None:
        rows = [
            (one.label, ", ".join(one.members), _rate(one.before), _rate(one.shown), _rate(one.kept))
            for one in sets.sets
        ]
        print_table(f"sets of {len(sets.sets[0].members)} out of {len(sets.candidates)}", _COLUMNS, rows)
        print_trust(judge_calibration(report.findings))
        for sentence in sets.verdict():
            say(sentence)
    for reason in (report.reasons or {}).values():
        say(reason)


def _rate(rate: "RateData | None") -> str:
    return "missing" if rate is None else str(rate)
