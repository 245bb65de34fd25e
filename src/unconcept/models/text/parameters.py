"""Parameters of a model's text encoders, as far as they influence the denoiser."""

import re

from torch import nn

from ..model_view import ModelView

_LAYER_NUMBER = re.compile(r"\blayers\.(\d+)\.")


def encoder_parameters(model: ModelView) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters of each CLIP text encoder by part and full name, as far as they influence the denoiser.

    SDXL reads the states of its first encoder before the last layer and not its pooled text, so that layer and the
    final norm are left out.
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
