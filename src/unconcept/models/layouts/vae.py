"""Original names of the modules of autoencoders. The inverse is left to diffusers."""

import re

_MIDDLE_NAME = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_BLOCK_NAME = re.compile(
    r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_OUTER_NAME = re.compile(r"(?:(?:encoder|decoder)\.(?:conv_in|conv_out)|quant_conv|post_quant_conv)")
# The second row has the names in checkpoints from before diffusers 0.18.
_ATTENTION_NAMES = {
    **{"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}


def original_vae_module(module: str, levels: int) -> str | None:
    """The original name of a module; None if it has no place there.

    With four levels, `decoder.up_blocks.0.resnets.1.conv1` is `decoder.up.3.block.1.conv1`: the original counts the
    decoder's levels from the picture down.
    """
    if found := _MIDDLE_NAME.fullmatch(module):
        side, kind, j, rest = found[1], found[2], int(found[3]), found[4]
        if kind == "resnets":
            return f"{side}.mid.block_{j + 1}.{_shortcut(rest)}"
        return f"{side}.mid.attn_1.{_ATTENTION_NAMES[rest]}" if rest in _ATTENTION_NAMES else None
    if found := _BLOCK_NAME.fullmatch(module):
        side, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        start = f"encoder.down.{i}" if side == "encoder" else f"decoder.up.{levels - 1 - i}"
        if kind == "resnets":
            return f"{start}.block.{j}.{_shortcut(rest)}"
        return f"{start}.{kind.removesuffix('rs')}.{rest}"
    if module.endswith(".conv_norm_out"):
        return module.replace("conv_norm_out", "norm_out")
    return module if _OUTER_NAME.fullmatch(module) else None


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")
