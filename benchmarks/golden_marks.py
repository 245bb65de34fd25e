"""Counts of what the source should have less of: untyped values, silenced tools, slow tests, long lines."""

import io
import tokenize
from collections import Counter
from pathlib import Path

FOLDERS = ("src", "tests")
LONG = 120  # characters of a line
COMMENTS = ("type: ignore", "noqa")


def marks(root: Path) -> dict[str, str | int]:
    """By folder and mark."""
    found: dict[str, str | int] = {}
    for folder in FOLDERS:
        texts = [path.read_text(encoding="utf-8") for path in sorted((root / folder).rglob("*.py"))]
        found |= {f"{folder} {name}": count for name, count in count_marks(texts).items()}
    return found


def count_marks(texts: list[str]) -> dict[str, int]:
    """Of the texts of source files, together."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_in_tokens(text))
    lengths = [len(line) for text in texts for line in text.splitlines()]
    names = ("Any", *COMMENTS, "slow")
    lines = {"longest line": max(lengths, default=0), f"lines over {LONG}": sum(length > LONG for length in lengths)}
    return {name: counts[name] for name in names} | lines


def _in_tokens(text: str) -> list[str]:
    """`Any` as a name, comments that silence a tool, and `mark.slow`; texts in quotes do not count."""
    found, before = [], ("", "")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found += [name for name in COMMENTS if name in token.string]
        elif token.type == tokenize.NAME:
            marked = token.string == "Any" or (*before, token.string) == ("mark", ".", "slow")
            found += [token.string] if marked else []
        before = before[1], token.string
    return found
