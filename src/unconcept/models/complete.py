"""What a model must hold by its own configs, so that layers that are missing or renamed are said before anything is edited."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..core.errors import ModelError, require
from .checkpoint import Checkpoint
from .view import Family

Config = Mapping[str, Any]
CROSS = re.compile(r"\.attn2\.to_[kv]\.weight$")
JOINT = re.compile(r"^(context_embedder|time_text_embed\.text_embedder\.linear_1)\.weight$|\.attn\.(add_[kv]_proj|to_[kv])\.weight$")
CLIP_LAYER = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")))
ENCODERS: dict[Family, tuple[str, ...]] = {
    **dict.fromkeys(("sd1", "sd2"), ("text_encoder",)),
    **dict.fromkeys(("sdxl", "flux"), ("text_encoder", "text_encoder_2")),
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3"),
}
OPTIONAL = "text_encoder_3"  # SD3 is also published without its T5
CLIP_ENDS = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm.weight", "final_layer_norm.bias")
T5_LAYER = ("0.layer_norm", *(f"0.SelfAttention.{name}" for name in "qkvo"), "1.layer_norm", "1.DenseReluDense.wo")


def check_complete(checkpoint: Checkpoint, family: Family, model: str) -> None:
    """`ModelError` unless the maps that read the text, and the layers of the text encoders, are those the configs imply. Nothing but names is read."""
    denoiser = checkpoint.denoiser
    rule, pattern = (unet_maps, CROSS) if denoiser == "unet" else (transformer_maps, JOINT)
    found = {name for name in checkpoint.known(denoiser) if pattern.search(name)}
    _compare(f"{model}: {denoiser}", "maps that the text goes through", _implied(rule, checkpoint, denoiser), found)
    for part in ENCODERS[family]:
        if part != OPTIONAL or checkpoint.has(part):
            names = {name.removeprefix("text_model.") for name in checkpoint.known(part)}
            needed = _implied(encoder_tensors, checkpoint, part)
            _compare(f"{model}: {part}", "tensors of its layers", needed, names & needed)


def _implied(rule: Callable[[Config], Iterator[str]], checkpoint: Checkpoint, part: str) -> set[str]:
    config = checkpoint.config(part)
    try:
        return set(rule(config))
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{checkpoint.source}: {part}/config.json does not say how many layers there are ({error!r}); give its own config") from None


def _compare(where: str, what: str, wanted: set[str], found: set[str]) -> None:
    missing, more = sorted(wanted - found), sorted(found - wanted)
    counts = f"{where} should hold {len(wanted)} {what} by its config.json, {len(wanted & found)} are there"
    require(not missing, f"{counts}; missing is {missing[0] if missing else ''}: layers are left out or renamed, give a complete model", ModelError)
    require(not more, f"{counts} and {len(more)} more, as {more[0] if more else ''}: give the model with its own config.json", ModelError)


def unet_maps(config: Config) -> Iterator[str]:
    """Keys and values of every cross-attention."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers = _each(config.get("layers_per_block", 2), len(down))
    depths = _each(config.get("transformer_layers_per_block", 1), len(down))
    upwards = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    sides = ("down_blocks", down, layers, depths), ("up_blocks", up, [count + 1 for count in layers[::-1]], upwards)
    for side, kinds, counts, deep in sides:
        for i, kind in enumerate(kinds):
            if kind.startswith("CrossAttn"):
                yield from _attended(f"{side}.{i}", _each(deep[i], counts[i]))
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        yield from _attended("mid_block", _each(depths[-1], 1))


def _attended(block: str, depths: Iterable[int]) -> Iterator[str]:
    """`depths`: transformer blocks of each attention."""
    for j, depth in enumerate(depths):
        for k in range(depth):
            yield from (f"{block}.attentions.{j}.transformer_blocks.{k}.attn2.to_{letter}.weight" for letter in "kv")


def _each(value: Any, count: int) -> list[Any]:
    """One value for all, or one for each, as diffusers' configs say it."""
    return [value] * count if isinstance(value, int) else list(value)


def transformer_maps(config: Config) -> Iterator[str]:
    """SD3's and FLUX's: the ways of the text into the transformer, and the keys and values of every block that it goes through."""
    yield from ("context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight")
    maps = ("add_k_proj", "add_v_proj", "to_k", "to_v")
    yield from (f"transformer_blocks.{i}.attn.{name}.weight" for i in range(config["num_layers"]) for name in maps)
    yield from (f"single_transformer_blocks.{i}.attn.{name}.weight" for i in range(config.get("num_single_layers", 0)) for name in maps[2:])


def encoder_tensors(config: Config) -> Iterator[str]:
    """Of a CLIP, without `text_model.`, or of a T5."""
    if "d_model" not in config:
        yield from CLIP_ENDS
        layers = range(config["num_hidden_layers"])
        yield from (f"encoder.layers.{i}.{name}.{kind}" for i in layers for name in CLIP_LAYER for kind in ("weight", "bias"))
        return
    gates = ("wi_0", "wi_1") if str(config.get("feed_forward_proj", "relu")).startswith("gated") else ("wi",)
    names = (*T5_LAYER, *(f"1.DenseReluDense.{gate}" for gate in gates))
    yield from (f"encoder.block.{i}.layer.{name}.weight" for i in range(config["num_layers"]) for name in names)
    yield from ("encoder.final_layer_norm.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
