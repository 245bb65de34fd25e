"""`unconcept invert`: finds the latents from which a model draws a picture again."""

from ..jobs.command_options import InvertOptions
from .console import say
from .options import QuietOptions


def invert(options: InvertOptions, shown: QuietOptions) -> None:
    """Write what `sample --from` starts from, and the picture drawn again; an edit is applied during the inversion."""
    from ..jobs.invert import invert as job

    found = job(options)
    if not shown.quiet:
        say(f"drawn again with an error of {found.error:.4f} (root mean square, pixels 0 to 1)")
    say(f"inverted.safetensors, redrawn.png -> {found.out}")
