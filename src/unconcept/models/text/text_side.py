"""Recognises a model's text encoders in a copy whose weights are quantised, by what quantisers leave alone."""

import torch

from ...core.hashing import hash_tensors
from ..checkpoint.validation import encoder_layout
from ..model_view import ModelView

_ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def text_side(model: ModelView) -> dict[str, str]:
    """Hashes of the biases and norms of a model's text encoders, by the half type that they are rounded to.

    Formats of quantised weights pack matrices alone, so a copy has one of the hashes whichever half type the rest of it
    is in. An encoder that was trained in its matrices alone has them too.
    """
    names: dict[str, str] = {}
    for encoder in model.spec.encoders:
        if model.checkpoint.has(encoder.part):
            own, shapes = encoder_layout(model.checkpoint, encoder)
            vectors = [name for name, shape in shapes.items() if len(shape) == 1]
            names |= {f"{encoder.part}.{own[name]}": f"{encoder.part}.{name}" for name in vectors}
    found = model.reference(names)
    numbers = {bare: found[name].detach().cpu() for name, bare in names.items()}
    hashes = {}
    for label, dtype in _ROUNDED.items():
        hashes[label] = hash_tensors({name: vector.to(dtype) for name, vector in numbers.items()})
    return hashes
