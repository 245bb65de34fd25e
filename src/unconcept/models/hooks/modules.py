"""Finds modules and parameters of the denoiser by their function, under their full names."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from ...core.errors import ModelError
from ..model_view import ModelView

_ATTENTION_MAP = re.compile(
    r"\.(attn\d?|attention)\.(to_[qkv]|to_qkv_mlp_proj|to_out(\.0)?|add_[qkv]_proj|to_add_out)$"
)
_STREAM_MAP = re.compile(r"\.attn\.add_[kv]_proj$")


def attention_linears(model: ModelView) -> dict[str, nn.Linear]:
    """The linear maps of every attention, by the full name of their weight."""
    found = model.modules("denoiser").named_modules()
    return {
        f"{model.spec.denoiser}.{name}.weight": module
        for name, module in found
        if isinstance(module, nn.Linear) and _ATTENTION_MAP.search(name)
    }


def text_stream_linears(model: ModelView) -> dict[str, nn.Linear]:
    """Key and value maps of the text stream in SD3's and FLUX's blocks, by the full name of their weight.

    There are 48 in SD3, 38 in FLUX and none in a UNet. They are not text maps: their inputs depend on block, timestep
    and picture, and have to be recorded.
    """
    found = model.modules("denoiser").named_modules()
    return {
        f"{model.spec.denoiser}.{name}.weight": module
        for name, module in found
        if isinstance(module, nn.Linear) and _STREAM_MAP.search(name)
    }


def denoiser_parameters(model: ModelView) -> dict[str, nn.Parameter]:
    """All parameters of the denoiser, by full name."""
    return {
        f"{model.spec.denoiser}.{name}": parameter for name, parameter in model.modules("denoiser").named_parameters()
    }


def denoiser_modules(model: ModelView, names: Iterable[str]) -> dict[str, nn.Module]:
    """The modules of the denoiser's weights, by the full name of each weight; `ModelError` if one is missing."""
    denoiser, found = model.modules("denoiser"), {}
    for name in names:
        try:
            found[name] = denoiser.get_submodule(name.partition(".")[2].removesuffix(".weight"))
        except AttributeError:
            raise ModelError(
                f"the model {model.name} has no {name}: the edit is for another family; give a model of that family"
            ) from None
    return found


KeysOrValues = Literal["K", "V", "KV"]


_ROLE_SUFFIXES = {"K": (".to_k.weight",), "V": (".to_v.weight",), "KV": (".to_k.weight", ".to_v.weight")}


def select_keys_or_values(maps: Mapping[str, Tensor], params: KeysOrValues) -> dict[str, Tensor]:
    """Select the maps that produce keys, values, or both."""
    return {name: maps[name] for name in maps if name.endswith(_ROLE_SUFFIXES[params])}


def cross_attention_maps(model: ModelView) -> list[nn.Module]:
    """The modules of cross-attention's keys and values; none in a joint transformer."""
    names = select_keys_or_values(model.text_maps(), "KV")
    return list(denoiser_modules(model, names).values())
