"""The names that the tensors of a single file have in a diffusers folder: `original_names` the other way round, for
what text edits read and change.
"""

import re
from collections.abc import Iterable, Iterator

from .layout import (
    DENOISER_PREFIX,
    OPEN_CLIP_LAYER_MODULES,
    OPEN_CLIP_TENSORS,
    RESNET_MODULES,
    SINGLE_FILE_ENCODERS,
    UNET_OUTER_MODULES,
    ModelLayout,
)
from .mmdit import folder_tensors
from .packing import Packing

EMA_PREFIX = "model_ema."  # training's running mean of the denoiser, kept beside it in some files
_ORIGINAL_UNET_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_ORIGINAL_UNET_MIDDLE = re.compile(r"middle_block\.(\d+)\.(.+)")
_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_RESNET_FROM_ORIGINAL = {original: own for own, original in RESNET_MODULES.items()}
_CLIP_FROM_OPEN_CLIP = {original: own for own, original in OPEN_CLIP_TENSORS.items()}
_CLIP_LAYER_FROM_OPEN_CLIP = {original: own for own, original in OPEN_CLIP_LAYER_MODULES.items()}
_PackedTensor = tuple[str, Packing]  # name in the file, and where in that tensor


def names_in_folder(keys: Iterable[str], layout: ModelLayout, part: str) -> dict[str, _PackedTensor]:
    """Name in the folder's `part` to where it stands in the file; the VAE is left to diffusers."""
    found: dict[str, _PackedTensor] = {}
    for key in keys:
        for name, laid in _names(key, layout, part):
            found[name] = key, laid
    return found


def _names(key: str, layout: ModelLayout, part: str) -> Iterator[tuple[str, Packing]]:
    if part == "transformer":  # FLUX's published file leaves the prefix out.
        yield from folder_tensors(key.removeprefix(DENOISER_PREFIX), layout.family, layout.blocks)
    elif part == "unet" and key.startswith(DENOISER_PREFIX):
        module, _, kind = key.removeprefix(DENOISER_PREFIX).rpartition(".")
        own = _unet_module(module, layout)
        if own is not None:
            yield f"{own}.{kind}", Packing()
    elif part in SINGLE_FILE_ENCODERS[layout.family] and key.startswith(SINGLE_FILE_ENCODERS[layout.family][part][0]):
        prefix, style = SINGLE_FILE_ENCODERS[layout.family][part]
        rest = key.removeprefix(prefix)
        if style == "open_clip":
            yield from _clip_names(rest)
        else:
            # Some tools leave `text_model.` out.
            yield rest.removeprefix("text_model.") if style == "clip" else rest, Packing()


def _unet_module(module: str, layout: ModelLayout) -> str | None:
    """The inverse of `ModelLayout.unet_module`; None for what that never gives."""
    ends = {
        original: own
        for own, original in UNET_OUTER_MODULES.items()
        if own.startswith("class_") == (layout.family != "sdxl") or "label" not in original
    }
    if module in ends:
        return ends[module]
    if found := _ORIGINAL_UNET_MIDDLE.fullmatch(module):
        place, rest = int(found[1]), found[2]
        return (
            _resnet(f"mid_block.resnets.{place // 2}", rest)
            if place % 2 == 0
            else f"mid_block.attentions.{place // 2}.{rest}"
        )
    if not (found := _ORIGINAL_UNET_BLOCK.fullmatch(module)):
        return None
    side, place, inner, rest = found[1], int(found[2]), int(found[3]), found[4]
    i, j = divmod(place - (side == "input"), layout.layers + 1)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{i}"
    if rest == "op":
        return f"{block}.downsamplers.0.conv"
    if rest == "conv":
        return f"{block}.upsamplers.0.conv"
    return _resnet(f"{block}.resnets.{j}", rest) if inner == 0 else f"{block}.attentions.{j}.{rest}"


def _resnet(start: str, rest: str) -> str | None:
    return f"{start}.{_RESNET_FROM_ORIGINAL[rest]}" if rest in _RESNET_FROM_ORIGINAL else None


def _clip_names(key: str) -> Iterator[tuple[str, Packing]]:
    """OpenCLIP keeps queries, keys and values in one tensor, and multiplies by its projection from the other side."""
    if key in _CLIP_FROM_OPEN_CLIP:
        yield _CLIP_FROM_OPEN_CLIP[key], Packing(transposed=key == "text_projection")
    elif found := _OPEN_CLIP_BLOCK.fullmatch(key):
        start, rest = f"encoder.layers.{found[1]}", found[2]
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            yield from (
                (f"{start}.self_attn.{letter}_proj.{kind}", Packing((i, 1, 3))) for i, letter in enumerate("qkv")
            )
            return
        module, _, kind = rest.rpartition(".")
        if module in _CLIP_LAYER_FROM_OPEN_CLIP:
            yield f"{start}.{_CLIP_LAYER_FROM_OPEN_CLIP[module]}.{kind}", Packing()
