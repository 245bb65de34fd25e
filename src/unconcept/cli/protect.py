"""`unconcept protect`: changes pictures so that models learn badly from them."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from ..jobs.protection.options import ProtectOptions
from .console import print_table, progress, say
from .options import QuietOptions


def protect(options: ProtectOptions, shown: QuietOptions) -> None:
    """Write copies of pictures that personalisation learns badly from; it delays copying and does not prevent it."""
    with progress(shown.quiet) as tell:
        from ..jobs.protection.protect import PAGE_FILE
        from ..jobs.protection.protect import protect as job

        done = job(options, tell)
    if not shown.quiet:
        for note in done.notes:
            say(note)
        before, after = mean(one.loss_before for one in done.pictures), mean(one.loss_after for one in done.pictures)
        furthest = max(one.distance for one in done.pictures)
        if done.proof is not None:
            _print_proof(done.proof)
        say(f"largest distance {furthest:.4f}; a learner's loss {before:.3f} -> {after:.3f}, mean over the pictures")
    say(f"{len(done.pictures)} pictures, {PAGE_FILE} -> {done.out}")


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
