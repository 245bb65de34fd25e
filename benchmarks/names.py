"""Names to measure with: made up, the same ones every time, about as many tokens long as names of people are."""

import random
from pathlib import Path

from unconcept.prompts.lists import read_texts

SYLLABLES = (
    "al an ar ben bor cal dan del el far gan hol il jan kar lin lor mar mel nor os par ran ric sal son tan tor val ver"
    " wil zan"
)


def names(count: int, file: Path | None = None) -> tuple[str, ...]:
    """That many distinct names, or the first lines of a file."""
    if file:
        lines = tuple(dict.fromkeys(read_texts(file)))
        if len(lines) < count:
            raise SystemExit(f"{file} has {len(lines)} names, {count} are needed: add some, or leave --names out")
        return lines[:count]
    chance, syllables, made = random.Random(0), SYLLABLES.split(), {}
    while len(made) < count:
        words = ("".join(chance.choices(syllables, k=chance.choice((1, 2)))).capitalize() for _ in range(2))
        made[" ".join(words)] = None
    return tuple(made)
