"""Prints the plan of a command for `--dry-run`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from .console import print_json, say

if TYPE_CHECKING:
    from ..jobs.plan import RunPlan


def print_plan(plan: "RunPlan", as_json: bool) -> None:
    """Print what would be done, what it would cost, and what would be written."""
    if as_json:
        print_json(asdict(plan))
        return
    for topic, fact in plan.facts.items():
        say(f"{topic}: {fact}")
    say(f"cost: {plan.pictures} pictures, about {_duration(plan.seconds)} on this device")
    for file in plan.files:
        say(f"would write {file}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
