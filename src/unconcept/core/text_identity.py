"""Decides which texts are one text as far as that is known without a model: Unicode form, white space, capitals.

`models.text.text_identity` decides it by the token ids of a model.
"""

import unicodedata
from collections.abc import Callable, Hashable, Iterable

TextKey = Callable[[str], Hashable]
"""Maps a text to its key: texts with equal keys are one text."""


def composed_text(text: str) -> str:
    """The text in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", text)


def normalised_text(text: str) -> str:
    """The text in Unicode's composed form with single spaces: what every text encoder is given alike."""
    return " ".join(composed_text(text).split())


def folded_text(text: str) -> str:
    """The normalised text in lower case, as CLIP's tokenizers read it."""
    return normalised_text(text).lower()


def distinct_texts(texts: Iterable[str], key: TextKey = folded_text) -> tuple[str, ...]:
    """The texts in their order, each once: of several spellings of one text, the first."""
    found: dict[Hashable, str] = {}
    for text in texts:
        found.setdefault(key(text), text)
    return tuple(found.values())
