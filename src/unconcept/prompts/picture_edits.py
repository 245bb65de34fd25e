"""Texts that ask for an edit of a picture, and what a picture must show for the edit to be made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import require
from .checks import JudgedAspect

# ACE's first accessories (its scripts), for any model; embedded models' recipes name edits of their own captions.
USUAL_EDITS = ("wearing sunglasses", "wearing a hat", "holding a book")
_CHANGES: tuple[tuple[re.Pattern[str], tuple[JudgedAspect, ...]], ...] = (
    (re.compile(r"^on an? (.+) background$"), ("background",)),
    (re.compile(r"^in (.+) style$"), ("style",)),
    (re.compile(r"^(?:and|left of|right of|above|below) an? (.+)$"), ("object", "left", "right", "above", "below")),
)


@dataclass(frozen=True)
class WantedChange:
    """What a picture must show besides the concept: an edit that was asked for."""

    aspects: tuple[JudgedAspect, ...]
    """Where the judge looks for it; one of them is enough."""
    label: str


def require_edits(owner: str, edits: Sequence[str]) -> None:
    """Raise `SettingsError` if the edits of an attack are none."""
    require(bool(edits), f"{owner}: edits is empty: give what the prompts ask for, such as 'wearing a hat'")


def edit_text(edit: str, name: str | None) -> str:
    """The prompt that asks for an edit, with the name of what is in the picture or without it."""
    return edit if name is None else f"a {name} {edit}"


def wanted_change(edit: str) -> WantedChange | None:
    """What an edit in the form of the embedded models' captions changes; None for another text.

    Such are another background, another style, and another object: "on a blue background", "in ink style", "and a key".
    """
    for form, aspects in _CHANGES:
        if found := form.match(edit):
            return WantedChange(aspects, found[1])
    return None
