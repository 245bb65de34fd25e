"""What the tensors of SD3's and FLUX's transformers are called in the original layout, and how they lie there.

Queries, keys and values are one tensor there, in FLUX's single blocks with the first map of the feed-forward net. Where
diffusers' last norms have scale before shift, the original has shift before scale.
"""

import re
from collections.abc import Iterator, Mapping

from ..family import Family
from .packing import Packing

_NameTable = Mapping[str, tuple[str, Packing]]  # module in the folder to module in the original, and where in it


def _pieces(own: str, letters: str, original: str, parts: int = 3) -> dict[str, tuple[str, Packing]]:
    return {own.format(letter): (original, Packing((i, 1, parts))) for i, letter in enumerate(letters)}


def _whole(names: Mapping[str, str]) -> dict[str, tuple[str, Packing]]:
    return {own: (original, Packing()) for own, original in names.items()}


def _embedder(own: str, original: str, first: str, second: str) -> dict[str, str]:
    return {
        f"time_text_embed.{own}.linear_1": f"{original}.{first}",
        f"time_text_embed.{own}.linear_2": f"{original}.{second}",
    }


_LAST_MODULES = {
    "norm_out.linear": ("final_layer.adaLN_modulation.1", Packing(halves_swapped=True)),
    "proj_out": ("final_layer.linear", Packing()),
}
_SD3_OUTER_MODULES: _NameTable = _LAST_MODULES | _whole(
    {
        **{"pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder"},
        **_embedder("timestep_embedder", "t_embedder.mlp", "0", "2"),
        **_embedder("text_embedder", "y_embedder.mlp", "0", "2"),
    }
)
_SD3_BLOCK: _NameTable = {
    **_pieces("attn.to_{}", "qkv", "x_block.attn.qkv"),
    **_pieces("attn.add_{}_proj", "qkv", "context_block.attn.qkv"),
    **_pieces("attn2.to_{}", "qkv", "x_block.attn2.qkv"),
    **_whole(
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
_FLUX_OUTER_MODULES: _NameTable = _LAST_MODULES | _whole(
    {
        **{"x_embedder": "img_in", "context_embedder": "txt_in"},
        **_embedder("timestep_embedder", "time_in", "in_layer", "out_layer"),
        **_embedder("text_embedder", "vector_in", "in_layer", "out_layer"),
        **_embedder("guidance_embedder", "guidance_in", "in_layer", "out_layer"),
    }
)
_FLUX_DOUBLE_BLOCK: _NameTable = {
    **_pieces("attn.to_{}", "qkv", "img_attn.qkv"),
    **_pieces("attn.add_{}_proj", "qkv", "txt_attn.qkv"),
    **_whole(
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
_FLUX_SINGLE_BLOCK: _NameTable = {
    **_pieces("attn.to_{}", "qkv", "linear1", 7),
    "proj_mlp": ("linear1", Packing((3, 4, 7))),  # four times as wide as the model
    **_whole(
        {
            "norm.linear": "modulation.lin",
            "proj_out": "linear2",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
        }
    ),
}
_OUTER_MODULES: dict[Family, _NameTable] = {"sd3": _SD3_OUTER_MODULES, "flux": _FLUX_OUTER_MODULES}
_MMDIT_BLOCKS: dict[Family, dict[str, tuple[str, _NameTable]]] = {
    "sd3": {"transformer_blocks": ("joint_blocks", _SD3_BLOCK)},
    "flux": {
        "transformer_blocks": ("double_blocks", _FLUX_DOUBLE_BLOCK),
        "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE_BLOCK),
    },
}
_MMDIT_BLOCK = re.compile(r"(\w+)\.(\d+)\.(.+)")
_POSITION_TABLES = "pos_embed.pos_embed", "pos_embed"  # SD3's table of positions, which is no module's weight
_FLUX_SCALED_NORM = re.compile(r"\.(query|key)_norm$")  # FLUX's norms, whose weight is called scale
_SD3_CONTEXT_NORM = "norm1_context.linear"  # in SD3's last block it is a last norm


def original_tensor(name: str, family: Family, blocks: int) -> tuple[str, Packing] | None:
    """The original's tensor that holds a tensor of the transformer; None if it has no place there.

    `blocks` is how many SD3 has.
    """
    if family == "sd3" and name == _POSITION_TABLES[0]:
        return _POSITION_TABLES[1], Packing()
    module, _, kind = name.rpartition(".")
    found = _MMDIT_BLOCK.fullmatch(module)
    if module in _OUTER_MODULES[family]:
        start, (original, laid) = "", _OUTER_MODULES[family][module]
    elif found and found[1] in _MMDIT_BLOCKS[family] and found[3] in _MMDIT_BLOCKS[family][found[1]][1]:
        own, table = _MMDIT_BLOCKS[family][found[1]]
        start, (original, laid) = f"{own}.{found[2]}.", table[found[3]]
        if family == "sd3" and found[3] == _SD3_CONTEXT_NORM and int(found[2]) == blocks - 1:
            laid = Packing(halves_swapped=True)
    else:
        return None
    return f"{start}{original}.{'scale' if _FLUX_SCALED_NORM.search(original) else kind}", laid


def folder_tensors(key: str, family: Family, blocks: int) -> Iterator[tuple[str, Packing]]:
    """The inverse: the transformer's tensors that a tensor of the original holds; none for what `original_tensor` never
    gives.
    """
    if family == "sd3" and key == _POSITION_TABLES[1]:
        yield _POSITION_TABLES[0], Packing()
        return
    module, _, kind = key.rpartition(".")
    found, tables = _MMDIT_BLOCK.fullmatch(module), [("", _OUTER_MODULES[family])]
    for own, (original, table) in _MMDIT_BLOCKS[family].items():
        if found and found[1] == original:
            tables, module = [(f"{own}.{found[2]}.", table)], found[3]
    for start, table in tables:
        for own, (original, _) in table.items():
            if original == module:
                name = f"{start}{own}.{'weight' if kind == 'scale' else kind}"
                there = original_tensor(name, family, blocks)
                if there is not None and there[0] == key:
                    yield name, there[1]
