"""What a model must hold by its own configs, so that layers that are missing, renamed or of another shape are said
before anything is edited.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ...core.errors import ModelError, require
from ..family import Family
from .checkpoint import Checkpoint
from .safetensors_io import tensor_shapes

_Config = Mapping[str, Any]
_Shape = tuple[int, ...]
_NamedShapes = Iterator[tuple[str, _Shape]]
CROSS_ATTENTION_MAP = re.compile(r"\.attn2\.to_[kv]\.weight$")
JOINT_ATTENTION_MAP = re.compile(
    r"^(context_embedder|time_text_embed\.text_embedder\.linear_1)\.weight$|\.attn\.(add_[kv]_proj|to_[kv])\.weight$"
)
_REQUIRED_ENCODERS: dict[Family, tuple[str, ...]] = {
    **dict.fromkeys(("sd1", "sd2"), ("text_encoder",)),
    **dict.fromkeys(("sdxl", "flux"), ("text_encoder", "text_encoder_2")),
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3"),
}
_OPTIONAL_ENCODER = "text_encoder_3"  # SD3 is also published without its T5
# As diffusers' UNet has them where its config does not say.
_PER_BLOCK_DEFAULTS = {
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1280,
}


def require_complete(checkpoint: Checkpoint, family: Family, model: str) -> None:
    """`ModelError` unless the maps that read the text, and the layers of the text encoders, are those the configs
    imply.

    Nothing but names and, of files, shapes is read: a pipeline's weights may be packed.
    """
    denoiser = checkpoint.denoiser
    rule, pattern = (unet_maps, CROSS_ATTENTION_MAP) if denoiser == "unet" else (transformer_maps, JOINT_ATTENTION_MAP)
    maps, found = (
        _implied(rule, checkpoint, denoiser),
        {name for name in checkpoint.lazy_parameters(denoiser) if pattern.search(name)},
    )
    _compare(f"{model}: {denoiser}", "maps that the text goes through", set(maps), found)
    _check_shapes(f"{model}: {denoiser}", checkpoint, denoiser, {name: (name, shape) for name, shape in maps.items()})
    for part in _REQUIRED_ENCODERS[family]:
        if part != _OPTIONAL_ENCODER or checkpoint.has(part):
            own = {name.removeprefix("text_model."): name for name in checkpoint.lazy_parameters(part)}
            needed = _implied(encoder_tensors, checkpoint, part)
            _compare(f"{model}: {part}", "tensors of its layers", set(needed), set(own) & set(needed))
            _check_shapes(
                f"{model}: {part}", checkpoint, part, {own[name]: (name, shape) for name, shape in needed.items()}
            )


def _implied(rule: Callable[[_Config], _NamedShapes], checkpoint: Checkpoint, part: str) -> dict[str, _Shape]:
    config = checkpoint.config(part)
    try:
        return dict(rule(config))
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{checkpoint.source}: {part}/config.json does not say how many layers there are ({error!r}); give its own"
            " config"
        ) from None


def _check_shapes(where: str, checkpoint: Checkpoint, part: str, wanted: Mapping[str, tuple[str, _Shape]]) -> None:
    """Of the files that are there: a shard that nothing needs may be absent."""
    if checkpoint.source is None:
        return
    for stored, found in tensor_shapes(
        {
            name: place
            for name, place in checkpoint.lazy_parameters(part).items()
            if name in wanted and place.file.exists()
        }
    ).items():
        name, shape = wanted[stored]
        require(
            found == shape,
            f"{where}: {name} is {found}, by its config.json it should be {shape}: give the model with its own"
            " config.json",
            ModelError,
        )


def _compare(where: str, what: str, wanted: set[str], found: set[str]) -> None:
    missing, more = sorted(wanted - found), sorted(found - wanted)
    counts = f"{where} should hold {len(wanted)} {what} by its config.json, {len(wanted & found)} are there"
    require(
        not missing,
        f"{counts}; missing is {missing[0] if missing else ''}: layers are left out or renamed, give a complete model",
        ModelError,
    )
    require(
        not more,
        f"{counts} and {len(more)} more, as {more[0] if more else ''}: give the model with its own config.json",
        ModelError,
    )


def unet_maps(config: _Config) -> _NamedShapes:
    """Keys and values (o, d) of every cross-attention, o its block's channels and d the text's width."""
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


def _attended(block: str, depths: Iterable[int], shape: _Shape) -> _NamedShapes:
    """`depths`: transformer blocks of each attention."""
    for j, depth in enumerate(depths):
        for k in range(depth):
            yield from (
                (f"{block}.attentions.{j}.transformer_blocks.{k}.attn2.to_{letter}.weight", shape) for letter in "kv"
            )


def _each(value: Any, count: int) -> list[Any]:
    """One value for all, or one for each, as diffusers' configs say it."""
    return [value] * count if isinstance(value, int) else list(value)


def transformer_maps(config: _Config) -> _NamedShapes:
    """SD3's and FLUX's: the ways of the text into the transformer, and the keys and values of every block that it goes
    through.
    """
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "context_embedder.weight", (inner, config["joint_attention_dim"])
    yield "time_text_embed.text_embedder.linear_1.weight", (inner, config["pooled_projection_dim"])
    maps = ("add_k_proj", "add_v_proj", "to_k", "to_v")
    for blocks, count, names in (
        ("transformer_blocks", config["num_layers"], maps),
        ("single_transformer_blocks", config.get("num_single_layers", 0), maps[2:]),
    ):
        yield from ((f"{blocks}.{i}.attn.{name}.weight", (inner, inner)) for i in range(count) for name in names)


def encoder_tensors(config: _Config) -> _NamedShapes:
    """Of a CLIP, without `text_model.`, or of a T5."""
    return _t5_tensors(config) if "d_model" in config else _clip_tensors(config)


def _clip_tensors(config: _Config) -> _NamedShapes:
    wide, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.token_embedding.weight", (config["vocab_size"], wide)
    yield "embeddings.position_embedding.weight", (config["max_position_embeddings"], wide)
    linear = {
        "mlp.fc1": (inner, wide),
        "mlp.fc2": (wide, inner),
        **{f"self_attn.{name}_proj": (wide, wide) for name in ("q", "k", "v", "out")},
    }
    norms = ["final_layer_norm"]
    for layer in (f"encoder.layers.{i}" for i in range(config["num_hidden_layers"])):
        yield from ((f"{layer}.{name}.weight", shape) for name, shape in linear.items())
        yield from ((f"{layer}.{name}.bias", shape[:1]) for name, shape in linear.items())
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
    yield from ((f"{norm}.{kind}", (wide,)) for norm in norms for kind in ("weight", "bias"))


def _t5_tensors(config: _Config) -> _NamedShapes:
    wide, inner, deep = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    gates = ("wi_0", "wi_1") if str(config.get("feed_forward_proj", "relu")).startswith("gated") else ("wi",)
    layer: dict[str, _Shape] = {
        **{f"0.SelfAttention.{name}": (inner, wide) for name in "qkv"},
        **{"0.SelfAttention.o": (wide, inner), "1.DenseReluDense.wo": (wide, deep)},
        **{f"1.DenseReluDense.{gate}": (deep, wide) for gate in gates},
        **{"0.layer_norm": (wide,), "1.layer_norm": (wide,)},
    }
    yield from (
        (f"encoder.block.{i}.layer.{name}.weight", shape)
        for i in range(config["num_layers"])
        for name, shape in layer.items()
    )
    yield "encoder.final_layer_norm.weight", (wide,)
    buckets = config.get("relative_attention_num_buckets", 32)
    yield "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (buckets, config["num_heads"])
