"""Prints the plan of a command for `--dry-run`."""

from typing import TYPE_CHECKING

from .console import print_json, progress, say

if TYPE_CHECKING:
    from ..jobs.plans.plan import Plan


def show_plan(options: object, as_json: bool, quiet: bool) -> None:
    """Plan the command that has these options, and print what it would do, write, download and take."""
    with progress(quiet):
        from ..jobs.plans import plan_command

        plan = plan_command(options)
    if as_json:
        print_json(plan.data())
    else:
        _print(plan)


def _print(plan: "Plan") -> None:
    for topic, fact in plan.facts.items():
        say(f"{topic}: {fact}")
    for number, step in enumerate(plan.steps, 1):
        known = (
            "not known yet" if step.seconds is None else f"about {duration_text(step.seconds)}" if step.seconds else ""
        )
        basis = f" ({step.basis})" if step.basis else ""
        say(f"{number}. {step.what}{': ' * bool(known)}{known}{basis}")
    for download in plan.downloads:
        say(f"would download {download.name}: {download.files} files, {_size(download.bytes)}")
    for file in plan.files:
        say(f"would write {file.path}" + (f", about {_size(file.bytes)}" if file.bytes else ""))
    more = "" if plan.is_complete else ", without what is not known yet"
    say(f"cost: about {duration_text(plan.seconds)} on this device{more}")


def duration_text(seconds: float) -> str:
    """Seconds in the unit in which they are read best."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"
