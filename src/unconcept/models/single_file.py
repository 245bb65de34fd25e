"""The names that the tensors of a single file have in a diffusers folder: `original_names` the other way round, for what text edits read and change."""

import re
from collections.abc import Iterable, Iterator

from .original_names import OPEN_CLIP, OPEN_CLIP_LAYER, RESNET, TEXT, UNET_ENDS, Layout

DENOISER = "model.diffusion_model."
EMA = "model_ema."  # training's running mean of the denoiser, kept beside it in some files
BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"middle_block\.(\d+)\.(.+)")
RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
RESNET_PARTS = {original: own for own, original in RESNET.items()}
CLIP_NAMES = {original: own for own, original in OPEN_CLIP.items()}
CLIP_PARTS = {original: own for own, original in OPEN_CLIP_LAYER.items()}
Stands = tuple[str, tuple[int, int], bool]  # name in the file, which of how many equal pieces by rows, whether it is turned


def in_folder(keys: Iterable[str], layout: Layout, part: str) -> dict[str, Stands]:
    """Name in the folder's `part` to where it stands in the file; the VAE is left to diffusers."""
    found: dict[str, Stands] = {}
    for key in keys:
        for name, piece, turned in _names(key, layout, part):
            found[name] = key, piece, turned
    return found


def _names(key: str, layout: Layout, part: str) -> Iterator[tuple[str, tuple[int, int], bool]]:
    whole = (0, 1)
    if part == "unet" and key.startswith(DENOISER):
        module, _, kind = key.removeprefix(DENOISER).rpartition(".")
        own = _unet_module(module, layout)
        if own is not None:
            yield f"{own}.{kind}", whole, False
    elif part in TEXT[layout.family]:
        prefix, open_clip = TEXT[layout.family][part]
        bare = prefix.removesuffix("text_model.")  # some tools leave it out
        if key.startswith(bare) and open_clip:
            yield from _clip_names(key.removeprefix(prefix))
        elif key.startswith(bare):
            yield key.removeprefix(bare).removeprefix("text_model."), whole, False


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


def _clip_names(key: str) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """OpenCLIP keeps queries, keys and values in one tensor, and multiplies by its projection from the other side."""
    if key in CLIP_NAMES:
        yield CLIP_NAMES[key], (0, 1), key == "text_projection"
    elif found := RESBLOCK.fullmatch(key):
        start, rest = f"encoder.layers.{found[1]}", found[2]
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            yield from ((f"{start}.self_attn.{letter}_proj.{kind}", (i, 3), False) for i, letter in enumerate("qkv"))
            return
        module, _, kind = rest.rpartition(".")
        if module in CLIP_PARTS:
            yield f"{start}.{CLIP_PARTS[module]}.{kind}", (0, 1), False
