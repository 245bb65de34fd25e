"""A kind of edits."""

from dataclasses import dataclass

from unconcept.edits import TextMapEdit, edit_kind


@edit_kind("toy-map")
@dataclass(frozen=True)
class ToyMapEdit(TextMapEdit):
    """A map on the text under another name."""
