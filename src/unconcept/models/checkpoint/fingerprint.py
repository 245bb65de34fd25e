"""What a model is: its name, its licence, and by content, hashes of its own weights,
whatever edits are applied to it.
"""

import re
from pathlib import Path

from ...core.hashing import hash_tensors
from ..model_view import ModelView
from .config import config_folder

TEXT_ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
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


def text_maps_hash(model: ModelView) -> str:
    """Of the maps that read the text: what a closed form may touch."""
    names = [*model.text_maps(), *model.text_maps("pooled")]
    return hash_tensors(model.reference(names))


def encoders_hash(model: ModelView) -> str:
    """Of all text encoders: what a text's states depend on, besides its token ids."""
    return _hash(model, TEXT_ENCODER_PARTS)


def networks_hash(model: ModelView) -> str:
    """Of denoiser and text encoders: what a training may touch."""
    return _hash(model, (model.checkpoint.denoiser, *TEXT_ENCODER_PARTS))


def _hash(model: ModelView, parts: tuple[str, ...]) -> str:
    # Older files also hold the positions' numbers, which are no parameters.
    names = [
        f"{part}.{name}"
        for part in parts
        for name in model.checkpoint.lazy_parameters(part)
        if not name.endswith("position_ids")
    ]
    return hash_tensors(model.reference(names))
