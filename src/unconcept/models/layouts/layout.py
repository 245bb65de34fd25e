"""What the modules and tensors of a diffusers folder are called in the original layout, and how they lie there.

Single-file checkpoints, ComfyUI's networks and LoRAs for SDXL, SD3 and FLUX go by these names. They follow from the
folder's configs alone, so they hold for a network of any depth. Here are SD 1.x, 2.x and SDXL; `mmdit_names` has the
others.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import ModelError, require
from ..checkpoint.config import TRANSFORMER_PIPELINES, UNET_PIPELINES, config_folder, read_config, unet_family
from ..family import Family
from .mmdit import original_tensor
from .packing import Packing, require_all_members

UNET_OUTER_MODULES = {
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
RESNET_MODULES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_MIDDLE_NAME = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_UNET_BLOCK_NAME = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE_NAME = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_BLOCK_NAME = re.compile(
    r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE_OUTER_NAME = re.compile(r"(?:(?:encoder|decoder)\.(?:conv_in|conv_out)|quant_conv|post_quant_conv)")
# The second spelling of each is that of checkpoints from before diffusers 0.18.
_VAE_ATTENTION_NAMES = {
    **{"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
OPEN_CLIP_TENSORS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
OPEN_CLIP_LAYER_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_LAYER_NAME = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_STACKED_PROJECTION = re.compile(r"self_attn\.([qkv])_proj")
EncoderNaming = Literal["clip", "open_clip", "t5"]
_SD3_CLIP_L_PREFIX = "text_encoders.clip_l.transformer."
_T5_PREFIX = "text_encoders.t5xxl.transformer."
# One table, which published files hold twice.
_T5_SHARED, _T5_ENCODER = f"{_T5_PREFIX}shared.weight", f"{_T5_PREFIX}encoder.embed_tokens.weight"
SINGLE_FILE_ENCODERS: dict[
    Family, dict[str, tuple[str, EncoderNaming]]
] = {  # by part: where the encoder stands in a single file, and whose names are used there
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", "clip")},
    "sd2": {"text_encoder": ("cond_stage_model.model.", "open_clip")},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", "clip"),
        "text_encoder_2": ("conditioner.embedders.1.model.", "open_clip"),
    },
    "sd3": {
        "text_encoder": (_SD3_CLIP_L_PREFIX, "clip"),
        "text_encoder_2": ("text_encoders.clip_g.transformer.", "clip"),
        "text_encoder_3": (_T5_PREFIX, "t5"),
    },
    "flux": {"text_encoder": (_SD3_CLIP_L_PREFIX, "clip"), "text_encoder_2": (_T5_PREFIX, "t5")},
}
_VAE_PREFIXES: dict[Family, str] = {
    **dict.fromkeys(("sd1", "sd2", "sdxl", "sd3"), "first_stage_model."),
    "flux": "vae.",
}
DENOISER_PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class ModelLayout:
    """What the original names of a model depend on."""

    family: Family
    levels: int  # of the VAE's decoder, which the original counts from the picture down
    layers: int = 0  # of a UNet: resnets of a down block; up blocks have one more
    attended: frozenset[int] = frozenset()  # of a UNet: up blocks with cross-attention; their upsampler comes third
    blocks: int = 0  # of SD3's and FLUX's transformer

    @classmethod
    def of(cls, source: Path) -> "ModelLayout":
        """From the configs of a diffusers folder, or of a single file; `ModelError` if its
        family has no such layout.
        """
        folder = config_folder(source)
        kind = str(read_config(folder / "model_index.json").get("_class_name"))
        known = (*UNET_PIPELINES, *TRANSFORMER_PIPELINES)
        require(
            kind in known,
            f"{folder} holds a {kind}: the original layout is known for {', '.join(known)}; export --to diffusers or"
            " peft",
            ModelError,
        )
        vae = read_config(folder / "vae" / "config.json")
        levels = len(vae["up_block_types"])
        if kind in TRANSFORMER_PIPELINES:
            return cls(
                TRANSFORMER_PIPELINES[kind],
                levels,
                blocks=read_config(folder / "transformer" / "config.json")["num_layers"],
            )
        unet, text = (read_config(folder / part / "config.json") for part in ("unet", "text_encoder"))
        layers = unet["layers_per_block"]
        require(
            isinstance(layers, int),
            f"{folder}: layers_per_block {layers} differs from block to block: it has no original layout",
            ModelError,
        )
        attended = frozenset(i for i, block in enumerate(unet["up_block_types"]) if block.startswith("CrossAttn"))
        return cls(unet_family(kind, unet, text), levels, layers, attended)

    @property
    def denoiser(self) -> str:
        return "transformer" if self.family in TRANSFORMER_PIPELINES.values() else "unet"

    @property
    def parts(self) -> tuple[str, ...]:
        """What a single file holds."""
        return (self.denoiser, "vae", *SINGLE_FILE_ENCODERS[self.family])

    def prefix(self, part: str) -> str:
        """What the names of a part begin with in a single file."""
        if part == self.denoiser:
            return DENOISER_PREFIX
        return _VAE_PREFIXES[self.family] if part == "vae" else SINGLE_FILE_ENCODERS[self.family][part][0]

    def denoiser_tensor(self, name: str) -> tuple[str, Packing]:
        """Where a tensor of the UNet or transformer stands in the original network."""
        if self.denoiser == "unet":
            module, _, kind = name.rpartition(".")
            return f"{self.unet_module(module)}.{kind}", Packing()
        found = original_tensor(name, self.family, self.blocks)
        if found is None:
            raise _unknown(f"transformer.{name}")
        return found

    def unet_module(self, module: str) -> str:
        """`down_blocks.0.attentions.0.proj_in` is `input_blocks.1.1.proj_in`."""
        if module in UNET_OUTER_MODULES:
            return UNET_OUTER_MODULES[module]
        if found := _UNET_MIDDLE_NAME.fullmatch(module):
            kind, j, rest = found[1], int(found[2]), found[3]
            return (
                f"middle_block.{2 * j}.{_resnet(module, rest)}"
                if kind == "resnets"
                else f"middle_block.{2 * j + 1}.{rest}"
            )
        if not (found := _UNET_BLOCK_NAME.fullmatch(module)):
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
        if found := _VAE_MIDDLE_NAME.fullmatch(module):
            side, kind, j, rest = found[1], found[2], int(found[3]), found[4]
            if kind == "resnets":
                return f"{side}.mid.block_{j + 1}.{_shortcut(rest)}"
            if rest in _VAE_ATTENTION_NAMES:
                return f"{side}.mid.attn_1.{_VAE_ATTENTION_NAMES[rest]}"
        elif found := _VAE_BLOCK_NAME.fullmatch(module):
            side, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            start = f"encoder.down.{i}" if side == "encoder" else f"decoder.up.{self.levels - 1 - i}"
            return (
                f"{start}.block.{j}.{_shortcut(rest)}"
                if kind == "resnets"
                else f"{start}.{kind.removesuffix('rs')}.{rest}"
            )
        elif module.endswith(".conv_norm_out"):
            return module.replace("conv_norm_out", "norm_out")
        elif _VAE_OUTER_NAME.fullmatch(module):
            return module
        raise _unknown(f"vae.{module}")

    def in_single_file(self, name: str) -> tuple[str, Packing] | None:
        """Which tensor of a single file holds a tensor, by its full name (`unet.`...), and where in it; None if it has
        no place there.
        """
        part, _, rest = name.partition(".")
        if part == self.denoiser:
            key, laid = self.denoiser_tensor(rest)
            return f"{DENOISER_PREFIX}{key}", laid
        if part == "vae":
            module, _, kind = rest.rpartition(".")
            return f"{self.prefix(part)}{self.vae_module(module)}.{kind}", Packing()
        if part not in SINGLE_FILE_ENCODERS[self.family]:
            raise _unknown(name)
        prefix, style = SINGLE_FILE_ENCODERS[self.family][part]
        if style == "t5":
            return f"{prefix}{rest}", Packing()
        rest = rest.removeprefix("text_model.")
        if style == "clip":
            return f"{prefix}{rest if rest.startswith('text_projection') else f'text_model.{rest}'}", Packing()
        if rest.endswith("position_ids"):
            return None
        key, laid = _open_clip(name, rest)
        return f"{prefix}{key}", laid


def group_by_packed_tensor(names: Iterable[str], layout: ModelLayout) -> dict[str, dict[str, Packing]]:
    """Each tensor of a single file with the tensors of the folder it is made of, in the order they stand in it;
    `ModelError` if one lacks a part.
    """
    found: dict[str, dict[str, Packing]] = {}
    for name in names:
        stands = layout.in_single_file(name)
        if stands is not None:
            found.setdefault(stands[0], {})[name] = stands[1]
    if _T5_SHARED in found:
        found.setdefault(_T5_ENCODER, found[_T5_SHARED])
    for original, members in found.items():
        require_all_members(original, members)
    return {
        original: dict(sorted(members.items(), key=lambda member: member[1].rows))
        for original, members in found.items()
    }


def _open_clip(name: str, rest: str) -> tuple[str, Packing]:
    """OpenCLIP keeps queries, keys and values in one tensor, and multiplies by its projection from the other side."""
    if rest in OPEN_CLIP_TENSORS:
        return OPEN_CLIP_TENSORS[rest], Packing(transposed=OPEN_CLIP_TENSORS[rest] == "text_projection")
    if found := _CLIP_LAYER_NAME.fullmatch(rest):
        start, inner, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if letter := _STACKED_PROJECTION.fullmatch(inner):
            return f"{start}.attn.in_proj_{kind}", Packing(("qkv".index(letter[1]), 1, 3))
        if inner in OPEN_CLIP_LAYER_MODULES:
            return f"{start}.{OPEN_CLIP_LAYER_MODULES[inner]}.{kind}", Packing()
    raise _unknown(name)


def _resnet(module: str, rest: str) -> str:
    if rest not in RESNET_MODULES:
        raise _unknown(f"unet.{module}")
    return RESNET_MODULES[rest]


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _unknown(name: str) -> ModelError:
    return ModelError(f"{name} has no name in the original layout of its family; export --to diffusers")
