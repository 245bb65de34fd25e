"""Names of the tensors of Qwen-Image's transformer, the same in all tools, and the maps that process its text."""

from ..family import Config, NamedShapes
from .mmdit import TransformerNames
from .packing import Packing

_EMBEDDERS = ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2")
_OUTER = ("txt_norm", "txt_in", "img_in", "norm_out.linear", "proj_out", *_EMBEDDERS)
_ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k"),
)
_SIDE = ("mod.1", "mlp.net.0.proj", "mlp.net.2")  # of picture and of text
_BLOCK = (
    *map("attn.{}".format, _ATTENTION),
    *map("img_{}".format, _SIDE),
    *map("txt_{}".format, _SIDE),
)


def qwen_image_names(config: Config) -> TransformerNames:
    """Qwen-Image's names, which do not depend on the config."""
    return TransformerNames(_same(_OUTER), {"transformer_blocks": ("transformer_blocks", _same(_BLOCK))}, {})


def _same(modules: tuple[str, ...]) -> dict[str, tuple[str, Packing]]:
    return {name: (name, Packing()) for name in modules}


def qwen_image_maps(config: Config) -> NamedShapes:
    """The map through which text enters the transformer, and the key and value maps of every block, with shapes."""
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "txt_in.weight", (inner, config["joint_attention_dim"])
    for i in range(config["num_layers"]):
        for name in ("add_k_proj", "add_v_proj", "to_k", "to_v"):
            yield f"transformer_blocks.{i}.attn.{name}.weight", (inner, inner)
