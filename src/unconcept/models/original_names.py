"""What the modules and tensors of a diffusers folder are called in the original layout of SD 1.x, 2.x and SDXL.

Single-file checkpoints, ComfyUI's networks and LoRAs for SDXL all go by these names. They follow from the folder's
configs alone, so they hold for a network of any depth.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ModelError, require
from .configs import PIPELINES, config_folder, read_json, unet_family
from .view import Family

UNET_ENDS = {
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
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
VAE_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
VAE_ENDS = re.compile(r"(?:(?:encoder|decoder)\.(?:conv_in|conv_out)|quant_conv|post_quant_conv)")
# The second spelling of each is that of checkpoints from before diffusers 0.18.
VAE_ATTENTION = {
    **{"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
STACKED = re.compile(r"self_attn\.[qkv]_proj")
TEXT = {  # by family and part: where the encoder stands in a single file, and whether OpenCLIP's names are used there
    "sd1": {"text_encoder": ("cond_stage_model.transformer.text_model.", False)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.text_model.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
}


@dataclass(frozen=True)
class Layout:
    """What the original names of a model depend on."""

    family: Family
    layers: int  # resnets of a down block; up blocks have one more
    attended: frozenset[int]  # up blocks with cross-attention: their upsampler comes third
    levels: int  # of the VAE's decoder, which the original counts from the picture down

    @classmethod
    def of(cls, source: Path) -> "Layout":
        """From the configs of a diffusers folder, or of a single file; `ModelError` if its family has no such layout."""
        folder = config_folder(source)
        kind = str(read_json(folder / "model_index.json").get("_class_name"))
        message = f"{folder} holds a {kind}: the original layout is known for {', '.join(PIPELINES)}; export --to diffusers or peft"
        require(kind in PIPELINES, message, ModelError)
        unet, vae, text = (read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
        layers = unet["layers_per_block"]
        require(isinstance(layers, int), f"{folder}: layers_per_block {layers} differs from block to block: it has no original layout", ModelError)
        attended = frozenset(i for i, block in enumerate(unet["up_block_types"]) if block.startswith("CrossAttn"))
        return cls(unet_family(kind, unet, text), layers, attended, len(vae["up_block_types"]))

    @property
    def parts(self) -> tuple[str, ...]:
        """What a single file holds."""
        return ("unet", "vae", *TEXT[self.family])

    def unet_module(self, module: str) -> str:
        """`down_blocks.0.attentions.0.proj_in` is `input_blocks.1.1.proj_in`."""
        if module in UNET_ENDS:
            return UNET_ENDS[module]
        if found := UNET_MIDDLE.fullmatch(module):
            kind, j, rest = found[1], int(found[2]), found[3]
            return f"middle_block.{2 * j}.{_resnet(module, rest)}" if kind == "resnets" else f"middle_block.{2 * j + 1}.{rest}"
        if not (found := UNET_BLOCK.fullmatch(module)):
            raise _unknown(f"unet.{module}")
        side, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        place = i * (self.layers + 1) + (j if kind in ("resnets", "attentions") else self.layers)
        start = f"input_blocks.{place + 1}" if side == "down" else f"output_blocks.{place}"
        if kind == "resnets":
            return f"{start}.0.{_resnet(module, rest)}"
        if kind == "attentions":
            return f"{start}.1.{rest}"
        return f"{start}.0.op" if kind == "downsamplers" else f"{start}.{1 + (i in self.attended)}.conv"

    def vae_module(self, module: str) -> str:
        """`decoder.up_blocks.0.resnets.1.conv1` is, with four levels, `decoder.up.3.block.1.conv1`."""
        if found := VAE_MIDDLE.fullmatch(module):
            side, kind, j, rest = found[1], found[2], int(found[3]), found[4]
            if kind == "resnets":
                return f"{side}.mid.block_{j + 1}.{_shortcut(rest)}"
            if rest in VAE_ATTENTION:
                return f"{side}.mid.attn_1.{VAE_ATTENTION[rest]}"
        elif found := VAE_BLOCK.fullmatch(module):
            side, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            start = f"encoder.down.{i}" if side == "encoder" else f"decoder.up.{self.levels - 1 - i}"
            return f"{start}.block.{j}.{_shortcut(rest)}" if kind == "resnets" else f"{start}.{kind.removesuffix('rs')}.{rest}"
        elif module.endswith(".conv_norm_out"):
            return module.replace("conv_norm_out", "norm_out")
        elif VAE_ENDS.fullmatch(module):
            return module
        raise _unknown(f"vae.{module}")

    def in_single_file(self, name: str) -> str | None:
        """A tensor's name in a single file by its full name (`unet.`...); None if it has no place there.

        OpenCLIP keeps queries, keys and values in one tensor: the three share a name.
        """
        part, _, rest = name.partition(".")
        module, _, kind = rest.rpartition(".")
        if part == "unet":
            return f"model.diffusion_model.{self.unet_module(module)}.{kind}"
        if part == "vae":
            return f"first_stage_model.{self.vae_module(module)}.{kind}"
        if part not in TEXT[self.family]:
            raise _unknown(name)
        prefix, open_clip = TEXT[self.family][part]
        rest = rest.removeprefix("text_model.")
        if not open_clip:
            return f"{prefix}{rest}"
        return None if rest.endswith("position_ids") else f"{prefix}{_open_clip(name, rest)}"


def stacked(names: Iterable[str], layout: Layout) -> dict[str, tuple[str, ...]]:
    """Each tensor of a single file with the tensors of the folder it is made of, in the order they stand in it."""
    found: dict[str, list[str]] = {}
    for name in names:
        original = layout.in_single_file(name)
        if original is not None:
            found.setdefault(original, []).append(name)
    return {original: tuple(sorted(members, key=_order)) for original, members in found.items()}


def _order(name: str) -> int:
    return next((i for i, letter in enumerate("qkv") if f".{letter}_proj." in name), 0)


def _open_clip(name: str, rest: str) -> str:
    if rest in OPEN_CLIP:
        return OPEN_CLIP[rest]
    if found := CLIP_LAYER.fullmatch(rest):
        start, inner, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if STACKED.fullmatch(inner):
            return f"{start}.attn.in_proj_{kind}"
        if inner in OPEN_CLIP_LAYER:
            return f"{start}.{OPEN_CLIP_LAYER[inner]}.{kind}"
    raise _unknown(name)


def _resnet(module: str, rest: str) -> str:
    if rest not in RESNET:
        raise _unknown(f"unet.{module}")
    return RESNET[rest]


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _unknown(name: str) -> ModelError:
    return ModelError(f"{name} has no name in the original layout of its family; export --to diffusers")
