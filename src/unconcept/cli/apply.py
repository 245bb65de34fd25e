"""`unconcept apply`: bake an edit into a diffusers folder or a single file."""

from ..jobs.command_options import ApplyOptions
from .console import say


def apply(options: ApplyOptions) -> None:
    """Write a checkpoint with the edit in its weights; any tool that loads the model loads it."""
    from ..jobs.apply import apply as job

    done = job(options, say)
    for name in done.left_out:
        say(f"not copied, because it holds the unedited model: {name}")
    say(f"{done.weights} weights changed -> {done.out}")
