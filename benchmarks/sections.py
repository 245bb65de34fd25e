"""Documents of several tables, of which one may be measured anew: the others stay as they are."""

import re
from collections.abc import Mapping
from pathlib import Path


def write_sections(file: Path, begin: str, titles: Mapping[str, str], measured: Mapping[str, str]) -> str:
    """Write `begin`, then each table under `## TITLE` in the order of `titles`: what was measured, or else what the
    file says; the whole text.

    `SystemExit` if the file's other tables were measured on something else than what `begin` says.
    """
    sections = {**_kept(file, begin, titles), **measured}
    text = begin + "\n".join(f"## {titles[name]}\n\n{sections[name]}" for name in titles if name in sections)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return text


def _kept(file: Path, begin: str, titles: Mapping[str, str]) -> dict[str, str]:
    if not file.exists():
        return {}
    first, *parts = re.split(r"(?m)^## ", file.read_text(encoding="utf-8"))
    if first != begin:
        raise SystemExit(
            f"{file} was measured with another judge, table or way of drawing: measure every table anew, into another"
            " --docs"
        )
    names, kept = {title: name for name, title in titles.items()}, {}
    for part in parts:
        title, _, text = part.partition("\n")
        kept[names[title]] = text.strip("\n") + "\n"
    return kept
