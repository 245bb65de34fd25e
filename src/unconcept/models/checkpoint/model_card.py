"""What a model is called, and what its model card says of its licence."""

import re
from pathlib import Path

from .config import config_folder

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)  # of a model card
_LICENCE_LINE = re.compile(r"^(license|license_name):[ \t]*(\S.*)$", re.MULTILINE)


def base_id(name: str) -> str:
    """What a model is called in a header: a Hub id as it is, of a path its last part alone, since where it lies is
    nobody's business.
    """
    return name if not Path(name).expanduser().exists() and name.count("/") == 1 else Path(name).name


def read_licence(source: Path | None) -> str:
    """What the model card of a folder, or of a single file's configs, says in its front matter; "" where it says
    nothing, and of a pipeline in memory.

    A licence that is none of the Hub's is called "other" there, and has a name of its own beside it.
    """
    card = config_folder(source) / "README.md" if source else None
    front = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card and card.is_file() else None
    said: dict[str, str] = dict(_LICENCE_LINE.findall(front[1])) if front else {}
    return (said.get("license_name") or said.get("license", "")).strip().strip("\"'")
