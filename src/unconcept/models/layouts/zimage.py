"""Original names of the tensors of Z-Image's transformer, and the maps that process its text.

The original layout stores queries, keys and values in one tensor.
"""

from ..family import Config, NamedShapes
from .mmdit import TransformerNames
from .packing import Packing

_FEED_FORWARD = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
_SAME = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "adaLN_modulation.0", *_FEED_FORWARD)
_BLOCK = {
    **{f"attention.to_{letter}": ("attention.qkv", Packing((i, 1, 3))) for i, letter in enumerate("qkv")},
    "attention.to_out.0": ("attention.out", Packing()),
    **{f"attention.norm_{letter}": (f"attention.{letter}_norm", Packing()) for letter in "qk"},
    **{name: (name, Packing()) for name in _SAME},
}
_OUTER = {
    "all_x_embedder.2-1": ("x_embedder", Packing()),
    "all_final_layer.2-1.linear": ("final_layer.linear", Packing()),
    "all_final_layer.2-1.adaLN_modulation.1": ("final_layer.adaLN_modulation.1", Packing()),
    **{
        name: (name, Packing()) for name in ("cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")
    },
}


def z_image_names(config: Config) -> TransformerNames:
    """Z-Image's names, which do not depend on the config."""
    blocks = {stack: (stack, _BLOCK) for stack in ("layers", "noise_refiner", "context_refiner")}
    return TransformerNames(_OUTER, blocks, {name: name for name in ("x_pad_token", "cap_pad_token")})


def z_image_maps(config: Config) -> NamedShapes:
    """The map through which text enters the transformer, and the key and value maps of every block, with shapes."""
    dim, refiners = config["dim"], config["n_refiner_layers"]
    yield "cap_embedder.1.weight", (dim, config["cap_feat_dim"])
    for stack, count in (("layers", config["n_layers"]), ("noise_refiner", refiners), ("context_refiner", refiners)):
        for i in range(count):
            for letter in "kv":
                yield f"{stack}.{i}.attention.to_{letter}.weight", (dim, dim)
