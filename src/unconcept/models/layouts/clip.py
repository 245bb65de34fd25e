"""Translates names of text encoders' tensors between a diffusers folder and single files, in both directions.

A single file uses transformers' names, with or without `text_model.`, or OpenCLIP's. OpenCLIP stores queries, keys and
values in one tensor, and its projection transposed. T5 and language models have the same names everywhere.
"""

import re
from collections.abc import Iterator

from ..family import EncoderNaming
from .packing import Packing

_OPEN_CLIP_TENSORS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_FROM_OPEN_CLIP = {original: own for own, original in _OPEN_CLIP_TENSORS.items()}
_MODULE_FROM_OPEN_CLIP = {original: own for own, original in _OPEN_CLIP_MODULES.items()}
_LAYER_NAME = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_STACKED_PROJECTION = re.compile(r"self_attn\.([qkv])_proj")


def with_text_model(name: str) -> str:
    """A CLIP tensor's name with the prefix `text_model.`, as in older libraries and all other tools."""
    inner = name.removeprefix("text_model.")
    return inner if inner.startswith("text_projection") else f"text_model.{inner}"


def original_encoder_tensor(name: str, naming: EncoderNaming) -> tuple[str, Packing] | None:
    """The single file's tensor that contains an encoder's tensor, without the encoder's prefix; None if none does."""
    if naming in ("t5", "llm"):
        return name, Packing()
    if naming == "clip":
        return with_text_model(name), Packing()
    own = name.removeprefix("text_model.")
    if own in _OPEN_CLIP_TENSORS:
        return _OPEN_CLIP_TENSORS[own], Packing(transposed=own == "text_projection.weight")
    if found := _LAYER_NAME.fullmatch(own):
        start, inner, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if letter := _STACKED_PROJECTION.fullmatch(inner):
            return f"{start}.attn.in_proj_{kind}", Packing(("qkv".index(letter[1]), 1, 3))
        if inner in _OPEN_CLIP_MODULES:
            return f"{start}.{_OPEN_CLIP_MODULES[inner]}.{kind}", Packing()
    return None


def folder_encoder_tensors(key: str, naming: EncoderNaming) -> Iterator[tuple[str, Packing]]:
    """The inverse of `original_encoder_tensor`: the encoder's tensors in a tensor of a single file."""
    if naming == "open_clip":
        yield from _from_open_clip(key)
    else:  # Some tools leave `text_model.` out.
        yield key.removeprefix("text_model.") if naming == "clip" else key, Packing()


def _from_open_clip(key: str) -> Iterator[tuple[str, Packing]]:
    if key in _FROM_OPEN_CLIP:
        yield _FROM_OPEN_CLIP[key], Packing(transposed=key == "text_projection")
    elif found := _OPEN_CLIP_LAYER.fullmatch(key):
        start, rest = f"encoder.layers.{found[1]}", found[2]
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for i, letter in enumerate("qkv"):
                yield f"{start}.self_attn.{letter}_proj.{kind}", Packing((i, 1, 3))
            return
        module, _, kind = rest.rpartition(".")
        if module in _MODULE_FROM_OPEN_CLIP:
            yield f"{start}.{_MODULE_FROM_OPEN_CLIP[module]}.{kind}", Packing()
