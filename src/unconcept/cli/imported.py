"""`unconcept import`: converts what another tool made of a model to an edit file."""

from ..jobs.command_options import ImportOptions
from .console import say


def import_(options: ImportOptions) -> None:
    """Convert a LoRA or an edited checkpoint to an edit file, to be sampled, evaluated, attacked and exported."""
    from ..jobs.import_edit import import_to_file

    done = import_to_file(options)
    for note in done.notes:
        say(note)
    say(f"{len(done.edit.names)} weights -> {options.out}")
