"""Hashes of a model's own weights, whatever edits are applied to it."""

from collections.abc import Sequence

from ...core.hashing import hash_tensors
from ..model_view import ModelView

TEXT_ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def text_maps_hash(model: ModelView) -> str:
    """Of the maps that read the text: what a closed form may touch."""
    names = [*model.text_maps(), *model.text_maps("pooled")]
    return hash_tensors(model.reference(names))


def encoders_hash(model: ModelView) -> str:
    """Of all text encoders, and of what projects their states: what a text's states depend on beside its ids."""
    return _hash(model, TEXT_ENCODER_PARTS, _projection(model))


def networks_hash(model: ModelView) -> str:
    """Of denoiser and text encoders: what a training may touch."""
    return _hash(model, (model.checkpoint.denoiser, *TEXT_ENCODER_PARTS))


def _projection(model: ModelView) -> list[str]:
    """Parameters of the denoiser that text states go through before its maps."""
    part, module = model.spec.denoiser, model.spec.text_projection
    found = model.checkpoint.lazy_parameters(part) if module else ()
    return [f"{part}.{name}" for name in found if name.startswith(f"{module}.")]


def _hash(model: ModelView, parts: Sequence[str], more: Sequence[str] = ()) -> str:
    # Older files also hold the positions' numbers, which are no parameters.
    names = [
        f"{part}.{name}"
        for part in parts
        for name in model.checkpoint.lazy_parameters(part)
        if not name.endswith("position_ids")
    ]
    return hash_tensors(model.reference([*names, *more]))
