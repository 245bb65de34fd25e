"""The names that the tensors of a single file have in a diffusers folder: `original_names` the other way round, for what text edits read and change."""

import re
from collections.abc import Iterable, Iterator

from .layout import DENOISER, OPEN_CLIP, OPEN_CLIP_LAYER, RESNET, TEXT, UNET_ENDS, Layout
from .mmdit import folder_tensors
from .packing import Laid

EMA = "model_ema."  # training's running mean of the denoiser, kept beside it in some files
BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"middle_block\.(\d+)\.(.+)")
RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
RESNET_PARTS = {original: own for own, original in RESNET.items()}
CLIP_NAMES = {original: own for own, original in OPEN_CLIP.items()}
CLIP_PARTS = {original: own for own, original in OPEN_CLIP_LAYER.items()}
Stands = tuple[str, Laid]  # name in the file, and where in that tensor


def in_folder(keys: Iterable[str], layout: Layout, part: str) -> dict[str, Stands]:
    """Name in the folder's `part` to where it stands in the file; the VAE is left to diffusers."""
    found: dict[str, Stands] = {}
    for key in keys:
        for name, laid in _names(key, layout, part):
            found[name] = key, laid
    return found


def _names(key: str, layout: Layout, part: str) -> Iterator[tuple[str, Laid]]:
    if part == "transformer":  # FLUX's published file leaves the prefix out.
        yield from folder_tensors(key.removeprefix(DENOISER), layout.family, layout.blocks)
    elif part == "unet" and key.startswith(DENOISER):
        module, _, kind = key.removeprefix(DENOISER).rpartition(".")
        own = _unet_module(module, layout)
        if own is not None:
            yield f"{own}.{kind}", Laid()
    elif part in TEXT[layout.family] and key.startswith(TEXT[layout.family][part][0]):
        prefix, style = TEXT[layout.family][part]
        rest = key.removeprefix(prefix)
        if style == "open_clip":
            yield from _clip_names(rest)
        else:
            yield rest.removeprefix("text_model.") if style == "clip" else rest, Laid()  # Some tools leave `text_model.` out.


def _unet_module(module: str, layout: Layout) -> str | None:
    """The inverse of `Layout.unet_module`; None for what that never gives."""
    ends = {original: own for own, original in UNET_ENDS.items() if own.startswith("class_") == (layout.family != "sdxl") or "label" not in original}
    if module in ends:
        return ends[module]
    if found := MIDDLE.fullmatch(module):
        place, rest = int(found[1]), found[2]
        return _resnet(f"mid_block.resnets.{place // 2}", rest) if place % 2 == 0 else f"mid_block.attentions.{place // 2}.{rest}"
    if not (found := BLOCK.fullmatch(module)):
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
    return f"{start}.{RESNET_PARTS[rest]}" if rest in RESNET_PARTS else None


def _clip_names(key: str) -> Iterator[tuple[str, Laid]]:
    """OpenCLIP keeps queries, keys and values in one tensor, and multiplies by its projection from the other side."""
    if key in CLIP_NAMES:
        yield CLIP_NAMES[key], Laid(turned=key == "text_projection")
    elif found := RESBLOCK.fullmatch(key):
        start, rest = f"encoder.layers.{found[1]}", found[2]
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            yield from ((f"{start}.self_attn.{letter}_proj.{kind}", Laid((i, 1, 3))) for i, letter in enumerate("qkv"))
            return
        module, _, kind = rest.rpartition(".")
        if module in CLIP_PARTS:
            yield f"{start}.{CLIP_PARTS[module]}.{kind}", Laid()
