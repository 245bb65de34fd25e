"""Original names of FLUX.2's transformer, and the maps that process its text.

Its blocks share their modulation. A single block has one map for queries, keys, values and the feed-forward net in both
layouts, in the same order, so it is no key or value map.
"""

from ..family import Config, NamedShapes
from .mmdit import FLUX_DOUBLE_BLOCK, LAST_MODULES, TransformerNames, whole_modules, without_modulation

_OUTER_MODULES = LAST_MODULES | whole_modules(
    {
        **{"x_embedder": "img_in", "context_embedder": "txt_in"},
        **{
            f"time_guidance_embed.{own}_embedder.linear_{i}": f"{original}_in.{side}_layer"
            for own, original in (("timestep", "time"), ("guidance", "guidance"))
            for i, side in ((1, "in"), (2, "out"))
        },
        **{
            f"{name}.linear": f"{name}.lin"
            for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
        },
    }
)
_DOUBLE_BLOCK = {
    own: place for own, place in without_modulation(FLUX_DOUBLE_BLOCK).items() if not own.startswith("ff")
} | whole_modules(
    {
        **{"ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2"},
        **{"ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2"},
    }
)
_SINGLE_BLOCK = whole_modules(
    {
        **{"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        **{"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
    }
)


def flux2_names(config: Config) -> TransformerNames:
    """FLUX.2's names, which do not depend on the config."""
    blocks = {
        "transformer_blocks": ("double_blocks", _DOUBLE_BLOCK),
        "single_transformer_blocks": ("single_blocks", _SINGLE_BLOCK),
    }
    return TransformerNames(_OUTER_MODULES, blocks, {})


def flux2_maps(config: Config) -> NamedShapes:
    """The map through which text enters the transformer, and the key and value maps of its double blocks."""
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "context_embedder.weight", (inner, config["joint_attention_dim"])
    for i in range(config["num_layers"]):
        for name in ("add_k_proj", "add_v_proj", "to_k", "to_v"):
            yield f"transformer_blocks.{i}.attn.{name}.weight", (inner, inner)
