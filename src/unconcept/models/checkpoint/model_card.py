"""A model's name in file headers, and the licence in its model card."""

import re
from pathlib import Path

from ...worlds.registry import embedded_world, split_config
from .config import config_folder
from .hub import is_hub_id

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)  # of a model card
_LICENCE_LINE = re.compile(r"^(license|license_name):[ \t]*(\S.*)$", re.MULTILINE)


def base_id(name: str) -> str:
    """The name of a model for file headers: an embedded model with its version, a Hub id, or the last part of a path,
    since its folders are private.
    """
    name, _ = split_config(name)
    world = embedded_world(name)
    if world is not None:
        return world.dated_name
    return name if is_hub_id(name) and not Path(name).expanduser().exists() else Path(name).name


def read_licence(source: Path | None) -> str:
    """Read the licence from the front matter of a model card; "" if there is none, or for a pipeline in memory.

    The card is in the diffusers folder, or in the config folder of a single file. For a licence that the Hub does not
    list, `license` is "other" and `license_name` has the name.
    """
    card = config_folder(source) / "README.md" if source else None
    front = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card and card.is_file() else None
    said: dict[str, str] = dict(_LICENCE_LINE.findall(front[1])) if front else {}
    return (said.get("license_name") or said.get("license", "")).strip().strip("\"'")
