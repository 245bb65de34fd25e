"""`unconcept export`: writes an edit as files that other tools load."""

from ..jobs.command_options import ExportOptions
from .console import say


def export(options: ExportOptions) -> None:
    """Write an edit for diffusers, A1111, Forge, ComfyUI or PEFT."""
    from ..jobs.export import export as job

    say(f"{job(options)} -> {options.out}")
