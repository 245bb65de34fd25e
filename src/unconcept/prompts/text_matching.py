"""Finds and replaces names of concepts in texts, and misspells them."""

import re
from collections.abc import Sequence

from ..core.concept import ConceptKind
from ..core.text_identity import composed_text

GENERAL_WORDS: dict[ConceptKind, str] = {  # General words in place of a concept, by its kind.
    "object": "object",
    "style": "art",
    "person": "person",
    "character": "character",
    "harmful": "object",
    "explicit": "person",
}
_KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # keys side by side


def find_name(text: str, wordings: Sequence[str]) -> tuple[int, int] | None:
    """Find the span of the longest wording that is in the text as whole words, ignoring case; None if none is.

    The text must be in Unicode's composed form (`composed_text`); the wordings may be in any form.
    """
    for wording in sorted(wordings, key=len, reverse=True):
        found = re.search(_whole_words(wording), text, re.IGNORECASE)
        if found:
            return found.span()
    return None


def without_names(texts: Sequence[str], wordings: Sequence[str]) -> list[str]:
    """The texts that contain none of the wordings as whole words, ignoring case."""
    named = re.compile("|".join(map(_whole_words, wordings)), re.IGNORECASE)
    return [text for text in texts if not named.search(composed_text(text))]


def shortest_names(names: Sequence[str]) -> list[str]:
    """The names that contain no other one as whole words, ignoring case, each once, in their order."""
    found: list[str] = []
    for name in sorted(names, key=len):
        if find_name(composed_text(name), found) is None:
            found.append(name)
    return sorted(found, key=list(names).index)


def _whole_words(wording: str) -> str:
    """The pattern of a wording as whole words, with any white space between them."""
    words = r"\s+".join(map(re.escape, composed_text(wording).split()))
    return rf"(?<!\w){words}(?!\w)"


def text_around_name(text: str, wordings: Sequence[str]) -> tuple[str, str]:
    """The text before and after the concept's name; without the name, "" and the whole text."""
    text = composed_text(text)
    place = find_name(text, wordings)
    return ("", text) if place is None else (text[: place[0]].strip(), text[place[1] :].strip())


def replace_name(text: str, wordings: Sequence[str], other: str) -> str:
    """Replace the concept's name by `other`; if the text lacks the name, put `other` before it."""
    text = composed_text(text)
    place = find_name(text, wordings)
    return f"{other} {text}" if place is None else text[: place[0]] + other + text[place[1] :]


def typos(name: str) -> tuple[str, ...]:
    """All misspellings by one typing error, in turn two letters swapped, one left out, one doubled, a neighbour key.

    The first letter of a word is kept: readers rely on it most (inferred), so these are the errors that are still
    understood.
    """
    inner = [i for i in range(1, len(name)) if name[i].isalpha() and name[i - 1].isalpha()]
    swapped = [name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in inner if i + 1 in inner]
    dropped = [name[:i] + name[i + 1 :] for i in inner]
    doubled = [name[:i] + name[i] + name[i:] for i in inner]
    beside = [name[:i] + key + name[i + 1 :] for i in inner for key in _beside(name[i])]
    kinds = (swapped, dropped, doubled, beside)
    longest = max(len(kind) for kind in kinds)
    turns = [kind[i] for i in range(longest) for kind in kinds if i < len(kind)]
    return tuple(dict.fromkeys(slip for slip in turns if slip != name))


def _beside(letter: str) -> str:
    """The keys left and right of a letter's key."""
    for row in _KEYBOARD_ROWS:
        i = row.find(letter.lower())
        if i >= 0:
            return row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    return ""
