"""What the modules and tensors of a diffusers folder are called in the original layout, and how they lie there.

Single-file checkpoints, ComfyUI's networks and LoRAs for SDXL, SD3 and FLUX go by these names. They follow from the
folder's configs alone, so they hold for a network of any depth. Here are SD 1.x, 2.x and SDXL; `mmdit_names` has the others.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import ModelError, require
from ..checkpoint.config import PIPELINES, TRANSFORMERS, config_folder, read_json, unet_family
from ..family import Family
from .mmdit import original_tensor
from .packing import Laid, check_whole

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
STACKED = re.compile(r"self_attn\.([qkv])_proj")
Style = Literal["clip", "open_clip", "t5"]
SHARED = "text_encoders.clip_l.transformer."
T5 = "text_encoders.t5xxl.transformer."
T5_SHARED, T5_ENCODER = f"{T5}shared.weight", f"{T5}encoder.embed_tokens.weight"  # one table, which published files hold twice
TEXT: dict[Family, dict[str, tuple[str, Style]]] = {  # by part: where the encoder stands in a single file, and whose names are used there
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", "clip")},
    "sd2": {"text_encoder": ("cond_stage_model.model.", "open_clip")},
    "sdxl": {"text_encoder": ("conditioner.embedders.0.transformer.", "clip"), "text_encoder_2": ("conditioner.embedders.1.model.", "open_clip")},
    "sd3": {"text_encoder": (SHARED, "clip"), "text_encoder_2": ("text_encoders.clip_g.transformer.", "clip"), "text_encoder_3": (T5, "t5")},
    "flux": {"text_encoder": (SHARED, "clip"), "text_encoder_2": (T5, "t5")},
}
VAE: dict[Family, str] = {**dict.fromkeys(("sd1", "sd2", "sdxl", "sd3"), "first_stage_model."), "flux": "vae."}
DENOISER = "model.diffusion_model."


@dataclass(frozen=True)
class Layout:
    """What the original names of a model depend on."""

    family: Family
    levels: int  # of the VAE's decoder, which the original counts from the picture down
    layers: int = 0  # of a UNet: resnets of a down block; up blocks have one more
    attended: frozenset[int] = frozenset()  # of a UNet: up blocks with cross-attention; their upsampler comes third
    blocks: int = 0  # of SD3's and FLUX's transformer

    @classmethod
    def of(cls, source: Path) -> "Layout":
        """From the configs of a diffusers folder, or of a single file; `ModelError` if its family has no such layout."""
        folder = config_folder(source)
        kind = str(read_json(folder / "model_index.json").get("_class_name"))
        known = (*PIPELINES, *TRANSFORMERS)
        require(kind in known, f"{folder} holds a {kind}: the original layout is known for {', '.join(known)}; export --to diffusers or peft", ModelError)
        vae = read_json(folder / "vae" / "config.json")
        levels = len(vae["up_block_types"])
        if kind in TRANSFORMERS:
            return cls(TRANSFORMERS[kind], levels, blocks=read_json(folder / "transformer" / "config.json")["num_layers"])
        unet, text = (read_json(folder / part / "config.json") for part in ("unet", "text_encoder"))
        layers = unet["layers_per_block"]
        require(isinstance(layers, int), f"{folder}: layers_per_block {layers} differs from block to block: it has no original layout", ModelError)
        attended = frozenset(i for i, block in enumerate(unet["up_block_types"]) if block.startswith("CrossAttn"))
        return cls(unet_family(kind, unet, text), levels, layers, attended)

    @property
    def denoiser(self) -> str:
        return "transformer" if self.family in TRANSFORMERS.values() else "unet"

    @property
    def parts(self) -> tuple[str, ...]:
        """What a single file holds."""
        return (self.denoiser, "vae", *TEXT[self.family])

    def prefix(self, part: str) -> str:
        """What the names of a part begin with in a single file."""
        if part == self.denoiser:
            return DENOISER
        return VAE[self.family] if part == "vae" else TEXT[self.family][part][0]

    def denoiser_tensor(self, name: str) -> tuple[str, Laid]:
        """Where a tensor of the UNet or transformer stands in the original network."""
        if self.denoiser == "unet":
            module, _, kind = name.rpartition(".")
            return f"{self.unet_module(module)}.{kind}", Laid()
        found = original_tensor(name, self.family, self.blocks)
        if found is None:
            raise _unknown(f"transformer.{name}")
        return found

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

    def in_single_file(self, name: str) -> tuple[str, Laid] | None:
        """Which tensor of a single file holds a tensor, by its full name (`unet.`...), and where in it; None if it has no place there."""
        part, _, rest = name.partition(".")
        if part == self.denoiser:
            key, laid = self.denoiser_tensor(rest)
            return f"{DENOISER}{key}", laid
        if part == "vae":
            module, _, kind = rest.rpartition(".")
            return f"{self.prefix(part)}{self.vae_module(module)}.{kind}", Laid()
        if part not in TEXT[self.family]:
            raise _unknown(name)
        prefix, style = TEXT[self.family][part]
        if style == "t5":
            return f"{prefix}{rest}", Laid()
        rest = rest.removeprefix("text_model.")
        if style == "clip":
            return f"{prefix}{rest if rest.startswith('text_projection') else f'text_model.{rest}'}", Laid()
        if rest.endswith("position_ids"):
            return None
        key, laid = _open_clip(name, rest)
        return f"{prefix}{key}", laid


def stacked(names: Iterable[str], layout: Layout) -> dict[str, dict[str, Laid]]:
    """Each tensor of a single file with the tensors of the folder it is made of, in the order they stand in it; `ModelError` if one lacks a part."""
    found: dict[str, dict[str, Laid]] = {}
    for name in names:
        stands = layout.in_single_file(name)
        if stands is not None:
            found.setdefault(stands[0], {})[name] = stands[1]
    if T5_SHARED in found:
        found.setdefault(T5_ENCODER, found[T5_SHARED])
    for original, members in found.items():
        check_whole(original, members)
    return {original: dict(sorted(members.items(), key=lambda member: member[1].rows)) for original, members in found.items()}


def _open_clip(name: str, rest: str) -> tuple[str, Laid]:
    """OpenCLIP keeps queries, keys and values in one tensor, and multiplies by its projection from the other side."""
    if rest in OPEN_CLIP:
        return OPEN_CLIP[rest], Laid(turned=OPEN_CLIP[rest] == "text_projection")
    if found := CLIP_LAYER.fullmatch(rest):
        start, inner, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if letter := STACKED.fullmatch(inner):
            return f"{start}.attn.in_proj_{kind}", Laid(("qkv".index(letter[1]), 1, 3))
        if inner in OPEN_CLIP_LAYER:
            return f"{start}.{OPEN_CLIP_LAYER[inner]}.{kind}", Laid()
    raise _unknown(name)


def _resnet(module: str, rest: str) -> str:
    if rest not in RESNET:
        raise _unknown(f"unet.{module}")
    return RESNET[rest]


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _unknown(name: str) -> ModelError:
    return ModelError(f"{name} has no name in the original layout of its family; export --to diffusers")
