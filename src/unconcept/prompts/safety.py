"""What is never drawn: a prompt that joins sexual content and minors. Such a concept may be erased, unseen."""

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib import resources

from ..core.errors import RequestError

_AGE = re.compile(r"\b(\d{1,2})[\s-]*(?:years?[\s-]*old|yrs?[\s-]*old|year[\s-]*olds|yo|y/o)\b")
_ADULT_AGE = 18


@cache
def _words(subject: str) -> frozenset[str]:
    lists = tomllib.loads(resources.files(__package__).joinpath("never_drawn.toml").read_text(encoding="utf-8"))
    return frozenset(lists[subject].split())


def is_never_drawn(*texts: str) -> bool:
    """Whether the texts together name minors and sexual content."""
    whole = unicodedata.normalize("NFKC", " ".join(texts)).casefold()
    words = set(re.findall(r"\w+", whole.replace("_", " ")))
    names_minors = bool(words & _words("minors")) or any(int(age) < _ADULT_AGE for age in _AGE.findall(whole))
    return names_minors and bool(words & _words("sexual"))


def require_drawable(texts: Iterable[str], about: Iterable[str] = ()) -> None:
    """Raise `RequestError` if a text, together with the concepts it is about, must not be drawn."""
    concepts = tuple(about)
    for text in texts:
        if is_never_drawn(text, *concepts):
            raise RequestError(
                f"{text!r} joins sexual content and minors: it is never drawn. Such a concept can be erased with"
                " --no-report and a method that draws no pictures, such as uce"
            )
