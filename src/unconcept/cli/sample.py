"""`unconcept sample`: draws prompts, with or without edits."""

from ..jobs.command_options import SamplingOptions
from .console import progress, say
from .options import QuietOptions


def sample(options: SamplingOptions, shown: QuietOptions) -> None:
    """Write one PNG per prompt; the same seed gives the same noise with and without an edit."""
    with progress(shown.quiet) as tell:
        from ..jobs.sample import sample as job

        drawn = job(options, tell)
    for note in drawn.notes:
        say(note)
    say(f"{drawn.count} pictures -> {drawn.out}")
