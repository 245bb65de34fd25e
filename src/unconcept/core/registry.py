"""Named things: methods, scorers, recipes, concepts. One lookup with "did you mean" for all of them."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from .errors import UnknownName

T = TypeVar("T")
SHOWN = 12  # names listed in an error when nothing is close


def suggest(name: str, known: Mapping[str, T], noun: str) -> T:
    """`known[name]`, or `UnknownName` that says what was probably meant."""
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    listed = sorted(known)
    more = f", ... ({len(listed)} in all)" if len(listed) > SHOWN else ""
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UnknownName(f"no {noun} {name!r}; {hint}Known: {', '.join(listed[:SHOWN])}{more}")


class Registry(Generic[T]):
    """A table of named things, filled by decorators, read in sorted order."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that puts a thing under `name`; a name is taken once."""

        def put(thing: T) -> T:
            if self._known.setdefault(name, thing) is not thing:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            return thing

        return put

    def __getitem__(self, name: str) -> T:
        return suggest(name, self._known, self.noun)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))

    def __len__(self) -> int:
        return len(self._known)
