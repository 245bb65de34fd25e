"""What a model is, by content: hashes of its own weights, whatever edits are applied to it."""

from pathlib import Path

from ..core.hashing import hash_tensors
from .view import ModelView

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def base_id(name: str) -> str:
    """What a model is called in a header: a Hub id as it is, of a path its last part alone, since where it lies is nobody's business."""
    return name if not Path(name).expanduser().exists() and name.count("/") == 1 else Path(name).name


def text_maps_hash(model: ModelView) -> str:
    """Of the maps that read the text: what a closed form may touch."""
    names = [*model.text_maps(), *model.text_maps("pooled")]
    return hash_tensors(model.reference(names))


def encoders_hash(model: ModelView) -> str:
    """Of all text encoders: what a text's states depend on, besides its token ids."""
    return _hash(model, ENCODERS)


def networks_hash(model: ModelView) -> str:
    """Of denoiser and text encoders: what a training may touch."""
    return _hash(model, (model.checkpoint.denoiser, *ENCODERS))


def _hash(model: ModelView, parts: tuple[str, ...]) -> str:
    # Older files also hold the positions' numbers, which are no parameters.
    names = [f"{part}.{name}" for part in parts for name in model.checkpoint.known(part) if not name.endswith("position_ids")]
    return hash_tensors(model.reference(names))
