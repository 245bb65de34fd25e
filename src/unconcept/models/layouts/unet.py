"""Original names of the tensors of the UNets of SD 1.x, 2.x and SDXL, and their text maps.

Everything follows from the config of the folder, so it works for a network of any depth.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...core.errors import ModelError, require
from ..family import Config, NamedShapes
from .packing import Packing

CROSS_ATTENTION_MAP = re.compile(r"\.attn2\.to_[kv]\.weight$")
UNET_MODULE_NAMES = re.compile(r"input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block")
_OUTER_MODULES = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
}
_RESNET_MODULES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_RESNET_FROM_ORIGINAL = {original: own for own, original in _RESNET_MODULES.items()}
_MIDDLE_NAME = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_BLOCK_NAME = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_ORIGINAL_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_ORIGINAL_MIDDLE = re.compile(r"middle_block\.(\d+)\.(.+)")
# The defaults of diffusers' UNet for keys that a config lacks.
_PER_BLOCK_DEFAULTS = {
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1280,
}


@dataclass(frozen=True)
class UNetNames:
    """Translates names of a UNet's tensors to the original layout and back."""

    layers: int
    """Number of resnets in a down block; up blocks have one more."""
    attended: frozenset[int]
    """Up blocks with cross-attention; their upsampler comes third."""
    label: str
    """The name of `label_emb` in the folder."""

    @classmethod
    def of(cls, config: Config) -> "UNetNames":
        """Make them from the UNet's config; `ModelError` if it has no original layout."""
        layers = config["layers_per_block"]
        message = (
            f"layers_per_block {layers} differs between blocks, which has no original layout: export --to diffusers"
        )
        require(isinstance(layers, int), message, ModelError)
        attended = frozenset(i for i, block in enumerate(config["up_block_types"]) if block.startswith("CrossAttn"))
        return cls(layers, attended, "add_embedding" if config.get("addition_embed_type") else "class_embedding")

    def original(self, name: str) -> tuple[str, Packing] | None:
        module, _, kind = name.rpartition(".")
        found = self._original_module(module)
        return None if found is None else (f"{found}.{kind}", Packing())

    def in_folder(self, key: str) -> Iterator[tuple[str, Packing]]:
        module, _, kind = key.rpartition(".")
        own = self._folder_module(module)
        if own is not None:
            yield f"{own}.{kind}", Packing()

    def _original_module(self, module: str) -> str | None:
        """Translate a module's name: `down_blocks.0.attentions.0.proj_in` to `input_blocks.1.1.proj_in`."""
        if module in _OUTER_MODULES:
            return _OUTER_MODULES[module]
        if found := _MIDDLE_NAME.fullmatch(module):
            kind, j, rest = found[1], int(found[2]), found[3]
            if kind == "resnets":
                return _within(f"middle_block.{2 * j}", _RESNET_MODULES.get(rest))
            return f"middle_block.{2 * j + 1}.{rest}"
        if not (found := _BLOCK_NAME.fullmatch(module)):
            return None
        side, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        place = i * (self.layers + 1) + (j if kind in ("resnets", "attentions") else self.layers)
        start = f"input_blocks.{place + 1}" if side == "down" else f"output_blocks.{place}"
        if kind == "resnets":
            return _within(f"{start}.0", _RESNET_MODULES.get(rest))
        if kind == "attentions":
            return f"{start}.1.{rest}"
        return f"{start}.0.op" if kind == "downsamplers" else f"{start}.{1 + (i in self.attended)}.conv"

    def _folder_module(self, module: str) -> str | None:
        """The inverse; None for a name that `_original_module` never returns."""
        for own, original in _OUTER_MODULES.items():
            if original == module and ("label" not in original or own.startswith(self.label)):
                return own
        if found := _ORIGINAL_MIDDLE.fullmatch(module):
            place, rest = int(found[1]), found[2]
            if place % 2 == 0:
                return _within(f"mid_block.resnets.{place // 2}", _RESNET_FROM_ORIGINAL.get(rest))
            return f"mid_block.attentions.{place // 2}.{rest}"
        if not (found := _ORIGINAL_BLOCK.fullmatch(module)):
            return None
        side, place, inner, rest = found[1], int(found[2]), int(found[3]), found[4]
        i, j = divmod(place - (side == "input"), self.layers + 1)
        block = f"{'down' if side == 'input' else 'up'}_blocks.{i}"
        if rest == "op":
            return f"{block}.downsamplers.0.conv"
        if rest == "conv":
            return f"{block}.upsamplers.0.conv"
        if inner == 0:
            return _within(f"{block}.resnets.{j}", _RESNET_FROM_ORIGINAL.get(rest))
        return f"{block}.attentions.{j}.{rest}"


def _within(block: str, module: str | None) -> str | None:
    return None if module is None else f"{block}.{module}"


def unet_maps(config: Config) -> NamedShapes:
    """Key and value maps (o, d) of every cross-attention: o is the number of its channels, d the text's width."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers, depths, channels, widths = (
        _each(config.get(name, usual), len(down)) for name, usual in _PER_BLOCK_DEFAULTS.items()
    )
    upwards = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    sides = (
        ("down_blocks", down, layers, depths, channels, widths),
        ("up_blocks", up, [count + 1 for count in layers[::-1]], upwards, channels[::-1], widths[::-1]),
    )
    for side, kinds, counts, deep, outs, texts in sides:
        for i, kind in enumerate(kinds):
            if kind.startswith("CrossAttn"):
                yield from _attended(f"{side}.{i}", _each(deep[i], counts[i]), (outs[i], texts[i]))
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        yield from _attended("mid_block", _each(depths[-1], 1), (channels[-1], widths[-1]))


def _attended(block: str, depths: Iterable[int], shape: tuple[int, ...]) -> NamedShapes:
    """Maps of one block; `depths` are the numbers of transformer blocks in each attention."""
    for j, depth in enumerate(depths):
        for k in range(depth):
            for letter in "kv":
                yield f"{block}.attentions.{j}.transformer_blocks.{k}.attn2.to_{letter}.weight", shape


def _each(value: Any, count: int) -> list[Any]:
    """Expand a config value to a list: diffusers' configs give one value for all, or one for each."""
    return [value] * count if isinstance(value, int) else list(value)
