"""`unconcept import`: a LoRA eraser made elsewhere as an edit file."""

from ..jobs.command_options import ImportOptions


def import_(options: ImportOptions) -> None:
    """Make a LoRA eraser an edit, to be drawn with, evaluated, attacked and exported like any other."""
    from ..jobs.import_edit import import_to_file

    print(f"{len(import_to_file(options).names)} weights -> {options.out}")
