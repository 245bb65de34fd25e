"""`unconcept protect`: changes pictures so that models learn badly from them."""

from collections.abc import Mapping
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..jobs.protection.options import ProtectOptions
from .console import print_table, progress, say
from .options import QuietOptions
from .plan import duration_text

if TYPE_CHECKING:
    from ..core.progress import ProgressCallback
    from ..jobs.protection.protect import OpenProtect

_MANY_PICTURES = 10  # from which a run says how long it takes


def protect(options: ProtectOptions, shown: QuietOptions) -> None:
    """Write copies of pictures that personalisation learns badly from; it delays copying and does not prevent it."""
    with progress(shown.quiet) as tell:
        from ..jobs.protection.protect import PAGE_FILE
        from ..jobs.protection.protect import protect as job

        done = job(options, tell, partial(_announce, options, tell))
    if not shown.quiet:
        for note in done.notes:
            say(note)
        before, after = mean(one.loss_before for one in done.pictures), mean(one.loss_after for one in done.pictures)
        furthest = max(one.distance for one in done.pictures)
        if done.proof is not None:
            _print_proof(done.proof)
        say(f"largest distance {furthest:.4f}; a learner's loss {before:.3f} -> {after:.3f}, mean over the pictures")
    say(f"{len(done.pictures)} pictures, {PAGE_FILE} -> {done.out}")


def _announce(options: ProtectOptions, tell: "ProgressCallback", opened: "OpenProtect") -> None:
    """Say what a long run will do, and about how long it takes."""
    if opened.proof is None and len(opened.given) < _MANY_PICTURES:
        return
    from ..jobs.plans.protect import protect_steps

    steps = protect_steps(opened, options)
    known = sum(step.seconds or 0.0 for step in steps)
    more = "" if all(step.seconds is not None for step in steps) else ", without what is not known yet"
    tell(f"about {duration_text(known)} on this device{more}: {', then '.join(step.what for step in steps)}", 1, 1)


def _print_proof(proof: Mapping[str, Any]) -> None:
    """Print what learners made of the pictures."""
    rows = []
    for row in proof["rows"]:
        rate = row["recognised"]
        share = f"{rate['value']:.0%} [{rate['low']:.0%}, {rate['high']:.0%}]"
        rows.append(
            (row["learner"], row["pictures"], str(row["steps"]), share, f"{row['likeness']:.3f}", str(rate["n"]))
        )
    print_table("copies", ("learner", "pictures", "steps", "recognised", "likeness", "n"), rows)
    for sentence in proof["verdict"]:
        say(sentence)
