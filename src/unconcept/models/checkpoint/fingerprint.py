"""Hashes of a model's original weights, independent of the edits applied to it."""

from collections.abc import Sequence

from ...core.hashing import hash_tensors
from ..model_view import ModelView

TEXT_ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def text_maps_hash(model: ModelView) -> str:
    """Hash the text maps, the weights that a closed-form edit may change."""
    names = [*model.text_maps(), *model.text_maps("pooled")]
    return hash_tensors(model.reference(names))


def encoders_hash(model: ModelView) -> str:
    """Hash all text encoders and the projection of their states: the weights that text states depend on."""
    return _hash(model, TEXT_ENCODER_PARTS, _projection(model))


def networks_hash(model: ModelView) -> str:
    """Hash denoiser and text encoders, the weights that training may change."""
    return _hash(model, (model.checkpoint.denoiser, *TEXT_ENCODER_PARTS))


def _projection(model: ModelView) -> list[str]:
    """Parameters of the denoiser's projection that text states pass before its maps."""
    part, module = model.spec.denoiser, model.spec.text_projection
    found = model.checkpoint.lazy_parameters(part) if module else ()
    return [f"{part}.{name}" for name in found if name.startswith(f"{module}.")]


def _hash(model: ModelView, parts: Sequence[str], more: Sequence[str] = ()) -> str:
    # Older files also contain position ids, which are not parameters.
    names = [
        f"{part}.{name}"
        for part in parts
        for name in model.checkpoint.lazy_parameters(part)
        if not name.endswith("position_ids")
    ]
    return hash_tensors(model.reference([*names, *more]))
