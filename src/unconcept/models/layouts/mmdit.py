"""Original names of the tensors of SD3's and FLUX's transformers, and the maps that process their text.

The original layout stores queries, keys and values in one tensor, in FLUX's single blocks together with the first map
of the feed-forward net. In last norms, diffusers has scale before shift and the original has shift before scale.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..family import Config, NamedShapes
from .packing import Packing

JOINT_ATTENTION_MAP = re.compile(
    r"^(context_embedder|time_text_embed\.text_embedder\.linear_1)\.weight$|\.attn\.(add_[kv]_proj|to_[kv])\.weight$"
)

NameTable = Mapping[str, tuple[str, Packing]]  # module in the folder to module in the original, and the place in it


def _pieces(own: str, letters: str, original: str, parts: int = 3) -> dict[str, tuple[str, Packing]]:
    return {own.format(letter): (original, Packing((i, 1, parts))) for i, letter in enumerate(letters)}


def whole_modules(names: Mapping[str, str]) -> dict[str, tuple[str, Packing]]:
    """A table of modules that the original has in one piece each."""
    return {own: (original, Packing()) for own, original in names.items()}


def _embedder(own: str, original: str, first: str, second: str) -> dict[str, str]:
    return {
        f"time_text_embed.{own}.linear_1": f"{original}.{first}",
        f"time_text_embed.{own}.linear_2": f"{original}.{second}",
    }


LAST_MODULES = {
    "norm_out.linear": ("final_layer.adaLN_modulation.1", Packing(halves_swapped=True)),
    "proj_out": ("final_layer.linear", Packing()),
}
_SD3_OUTER_MODULES: NameTable = LAST_MODULES | whole_modules(
    {
        **{"pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder"},
        **_embedder("timestep_embedder", "t_embedder.mlp", "0", "2"),
        **_embedder("text_embedder", "y_embedder.mlp", "0", "2"),
    }
)
_SD3_BLOCK: NameTable = {
    **_pieces("attn.to_{}", "qkv", "x_block.attn.qkv"),
    **_pieces("attn.add_{}_proj", "qkv", "context_block.attn.qkv"),
    **_pieces("attn2.to_{}", "qkv", "x_block.attn2.qkv"),
    **whole_modules(
        {
            **{
                "attn.to_out.0": "x_block.attn.proj",
                "attn.to_add_out": "context_block.attn.proj",
                "attn2.to_out.0": "x_block.attn2.proj",
            },
            **{"attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k"},
            **{"attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k"},
            **{"attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k"},
            **{
                "norm1.linear": "x_block.adaLN_modulation.1",
                "norm1_context.linear": "context_block.adaLN_modulation.1",
            },
            **{"ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2"},
            **{"ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2"},
        }
    ),
}
_FLUX_OUTER_MODULES: NameTable = LAST_MODULES | whole_modules(
    {
        **{"x_embedder": "img_in", "context_embedder": "txt_in"},
        **_embedder("timestep_embedder", "time_in", "in_layer", "out_layer"),
        **_embedder("text_embedder", "vector_in", "in_layer", "out_layer"),
        **_embedder("guidance_embedder", "guidance_in", "in_layer", "out_layer"),
    }
)
FLUX_DOUBLE_BLOCK: NameTable = {
    **_pieces("attn.to_{}", "qkv", "img_attn.qkv"),
    **_pieces("attn.add_{}_proj", "qkv", "txt_attn.qkv"),
    **whole_modules(
        {
            **{
                "attn.to_out.0": "img_attn.proj",
                "attn.to_add_out": "txt_attn.proj",
                "norm1.linear": "img_mod.lin",
                "norm1_context.linear": "txt_mod.lin",
            },
            **{"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm"},
            **{"attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"},
            **{
                "ff.net.0.proj": "img_mlp.0",
                "ff.net.2": "img_mlp.2",
                "ff_context.net.0.proj": "txt_mlp.0",
                "ff_context.net.2": "txt_mlp.2",
            },
        }
    ),
}
FLUX_SINGLE_BLOCK: NameTable = {
    **_pieces("attn.to_{}", "qkv", "linear1", 7),
    "proj_mlp": ("linear1", Packing((3, 4, 7))),  # four times as wide as the model
    **whole_modules(
        {
            "norm.linear": "modulation.lin",
            "proj_out": "linear2",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
        }
    ),
}
_SD3_BLOCKS = {"transformer_blocks": ("joint_blocks", _SD3_BLOCK)}
_FLUX_BLOCKS = {
    "transformer_blocks": ("double_blocks", FLUX_DOUBLE_BLOCK),
    "single_transformer_blocks": ("single_blocks", FLUX_SINGLE_BLOCK),
}


def without_modulation(block: NameTable) -> NameTable:
    """A table of FLUX's blocks for networks whose blocks have no modulation of their own."""
    return {own: place for own, place in block.items() if not place[0].endswith(".lin")}


_BLOCK_NAME = re.compile(r"(\w+)\.(\d+)\.(.+)")
_SCALED_NORM = re.compile(r"\.(query|key)_norm$|\.norms\.\d+$")  # FLUX's and Chroma's, whose weight is named scale


@dataclass(frozen=True)
class TransformerNames:
    """Translates names of a transformer's tensors to the original layout and back."""

    outer: NameTable
    """Modules outside the blocks."""
    blocks: Mapping[str, tuple[str, NameTable]]
    """Lists of blocks in the folder, each with its original name and the modules of a block."""
    tensors: Mapping[str, str]
    """Tensors that are not the weight or bias of a module."""
    swapped: tuple[str, ...] = ()
    """Modules whose halves are swapped in the original, unlike in other blocks."""

    def original(self, name: str) -> tuple[str, Packing] | None:
        if name in self.tensors:
            return self.tensors[name], Packing()
        module, _, kind = name.rpartition(".")
        found = _BLOCK_NAME.fullmatch(module)
        if module in self.outer:
            start, (original, packing) = "", self.outer[module]
        elif found and found[1] in self.blocks and found[3] in self.blocks[found[1]][1]:
            own, table = self.blocks[found[1]]
            start, (original, packing) = f"{own}.{found[2]}.", table[found[3]]
            if module in self.swapped:
                packing = Packing(halves_swapped=True)
        else:
            return None
        return f"{start}{original}.{'scale' if _SCALED_NORM.search(original) else kind}", packing

    def in_folder(self, key: str) -> Iterator[tuple[str, Packing]]:
        own_tensor = next((own for own, original in self.tensors.items() if original == key), None)
        if own_tensor is not None:
            yield own_tensor, Packing()
            return
        module, _, kind = key.rpartition(".")
        found, tables = _BLOCK_NAME.fullmatch(module), [("", self.outer)]
        for own, (original, table) in self.blocks.items():
            if found and found[1] == original:
                tables, module = [(f"{own}.{found[2]}.", table)], found[3]
        for start, table in tables:
            for own, (original, _) in table.items():
                if original == module:
                    name = f"{start}{own}.{'weight' if kind == 'scale' else kind}"
                    there = self.original(name)
                    if there is not None and there[0] == key:
                        yield name, there[1]


def sd3_names(config: Config) -> TransformerNames:
    """SD3's names. In the last block the first norm of the text is a last norm, with swapped halves."""
    swapped = (f"transformer_blocks.{config['num_layers'] - 1}.norm1_context.linear",)
    return TransformerNames(_SD3_OUTER_MODULES, _SD3_BLOCKS, {"pos_embed.pos_embed": "pos_embed"}, swapped)


def flux_names(config: Config) -> TransformerNames:
    """FLUX's names, which do not depend on the config."""
    return TransformerNames(_FLUX_OUTER_MODULES, _FLUX_BLOCKS, {})


def joint_maps(config: Config) -> NamedShapes:
    """The maps through which text enters the transformer, and the key and value maps of every block, with shapes."""
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "time_text_embed.text_embedder.linear_1.weight", (inner, config["pooled_projection_dim"])
    yield from text_stream_maps(config)


def sd3_attention_tensors(config: Config) -> NamedShapes:
    """What tells SD3's networks apart: where text, latents and places enter, and its attentions, with shapes."""
    yield from joint_maps(config)
    inner, patch = config["num_attention_heads"] * config["attention_head_dim"], config["patch_size"]
    yield "pos_embed.pos_embed", (1, config["pos_embed_max_size"] ** 2, inner)
    yield "pos_embed.proj.weight", (inner, config["in_channels"], patch, patch)
    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k") if config.get("qk_norm") else ()
    for i in range(config["num_layers"]):
        for norm in norms:
            yield f"transformer_blocks.{i}.attn.{norm}.weight", (config["attention_head_dim"],)
    for i in config.get("dual_attention_layers", ()):
        yield f"transformer_blocks.{i}.attn2.to_k.weight", (inner, inner)
        for norm in norms[:2]:
            yield f"transformer_blocks.{i}.attn2.{norm}.weight", (config["attention_head_dim"],)


def text_stream_maps(config: Config) -> NamedShapes:
    """The map through which text states enter the transformer, and the key and value maps of every block."""
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "context_embedder.weight", (inner, config["joint_attention_dim"])
    maps = ("add_k_proj", "add_v_proj", "to_k", "to_v")
    for blocks, count, names in (
        ("transformer_blocks", config["num_layers"], maps),
        ("single_transformer_blocks", config.get("num_single_layers", 0), maps[2:]),
    ):
        for i in range(count):
            for name in names:
                yield f"{blocks}.{i}.attn.{name}.weight", (inner, inner)
