"""`unconcept import`: converts a LoRA eraser from another tool to an edit file."""

from ..jobs.command_options import ImportOptions
from .console import say


def import_(options: ImportOptions) -> None:
    """Convert a LoRA eraser to an edit file, which can be sampled, evaluated, attacked and exported like any other."""
    from ..jobs.import_edit import import_to_file

    say(f"{len(import_to_file(options).names)} weights -> {options.out}")
