"""The text encoders of a model: which there are, and what of them the denoiser is told."""

import re

from torch import nn

from ..model_view import ModelView

_LAYER_NUMBER = re.compile(r"\blayers\.(\d+)\.")


def encoder_parameters(model: ModelView) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by full name of each text encoder, by part, as far as a change of them reaches the denoiser.

    SDXL reads its first encoder before the last layer and takes no pooled text from it: that layer and the final norm
    are left out.
    """
    found = {}
    for part in model.spec.clip_encoders:
        encoder = model.spec.encoder(part)
        own = {f"{part}.{name}": parameter for name, parameter in model.modules(part).named_parameters()}
        if encoder and encoder.is_penultimate and not encoder.gives_pooled:
            last = max(layer_number(name) for name in own)
            own = {
                name: parameter
                for name, parameter in own.items()
                if layer_number(name) != last and "final_layer_norm" not in name
            }
        found[part] = own
    return found


def layer_number(name: str) -> int:
    """The number of a parameter's layer; -1 outside of the layers."""
    number = _LAYER_NUMBER.search(name)
    return int(number[1]) if number else -1
