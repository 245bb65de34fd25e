"""Named things: methods, scorers, recipes, concepts. One lookup with "did you mean" for all of them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Generic, TypeVar

from .errors import PluginError, UnknownName
from .plugins import import_plugins

_T = TypeVar("_T")
_MOST_LISTED_NAMES = 12  # names listed in an error when nothing is close
_SUGGESTION_CUTOFF = 0.6  # likeness from which a name is worth suggesting


def suggest(name: str, known: Mapping[str, _T], noun: str, wordings: Mapping[str, str] | None = None) -> _T:
    """Return `known[name]`, or raise `UnknownName` with the nearest known names.

    `wordings` {wording: name} are other words for known names. They help to find suggestions, but no lookup uses them.
    """
    if name in known:
        return known[name]
    ways = {**dict.fromkeys(known), **(wordings or {})}
    ranked = sorted(
        ((_likeness(name, way), means or way) for way, means in ways.items()), key=lambda pair: (-pair[0], pair[1])
    )
    near = list(
        dict.fromkeys(means for likeness, means in ranked if likeness >= max(_SUGGESTION_CUTOFF, ranked[0][0] - 0.1))
    )[:3]
    listed = sorted(known)
    more = f", ... ({len(listed)} in all)" if len(listed) > _MOST_LISTED_NAMES else ""
    raise UnknownName(f"no {noun} {name!r}; {known_names(near, listed[:_MOST_LISTED_NAMES])}{more}")


def known_names(near: Sequence[str], known: Sequence[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, and what is known."""
    hint = f"did you mean {' or '.join(map(repr, near))}? Known" if near else "known"
    return f"{hint}: {', '.join(known) or 'none'}"


def _likeness(typed: str, known: str) -> float:
    """The larger of the similarity of letters and the similarity of words, in [0, 1].

    One common word counts more than common letters.
    """
    asked, words = _words(typed), _words(known)
    shared = len({*asked} & {*words}) / max(1, len({*asked, *words}))
    letters = SequenceMatcher(None, " ".join(asked), " ".join(words)).ratio()
    return max((1 + shared) / 2 if shared else 0.0, letters if letters >= 0.6 else 0.0)


def _words(text: str) -> list[str]:
    """The words of a text in lower case, without articles."""
    return [word for word in text.lower().split() if word not in ("a", "an", "the")]


def import_entries(package: str) -> list[ModuleType]:
    """Import each file of a package that is being imported, in order of their names, so that it registers what it has.

    It is called as `import_entries(__name__)`: hashes of source look for that (`source.py`).
    """
    return [import_module(f"{package}.{file.name}") for file in iter_modules(sys.modules[package].__path__)]


class Registry(Generic[_T]):
    """A table of named things, filled by decorators and read in sorted order.

    With a group of entry points, plug-ins of installed packages add their entries on the first read.
    """

    def __init__(self, noun: str, plugin_group: str | None = None) -> None:
        self.noun = noun
        self._known: dict[str, _T] = {}
        self._awaited_group = plugin_group

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator that registers an object under `name`; a name can be registered only once."""

        def put(thing: _T) -> _T:
            if self._known.setdefault(name, thing) is not thing:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            return thing

        return put

    def __getitem__(self, name: str) -> _T:
        return suggest(name, self._complete(), self.noun)

    def __contains__(self, name: object) -> bool:
        return name in self._complete()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._complete()))

    def __len__(self) -> int:
        return len(self._complete())

    def _complete(self) -> dict[str, _T]:
        """All entries. A plug-in that reads the table during its own import gets the entries registered so far."""
        group, self._awaited_group = self._awaited_group, None
        if group is not None:
            before = dict(self._known)
            try:
                import_plugins(group)
            except PluginError:
                self._known, self._awaited_group = before, group  # the next reader gets the same error
                raise
        return self._known
