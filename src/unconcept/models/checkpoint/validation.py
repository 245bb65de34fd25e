"""Checks a model against its own configs before any edit: no layer may be missing, renamed or of another shape."""

from collections.abc import Callable, Mapping
from itertools import islice

from ...core.errors import ModelError, require
from ..family import Config, FamilySpec, NamedShapes, TextEncoderSpec
from ..text.llm_skeleton import language_prefix, language_tensors
from .checkpoint import Checkpoint
from .safetensors_io import tensor_shapes
from .storage import require_no_quantiser, stored_tensors
from .weight_files import weight_file, weight_variants

_Shape = tuple[int, ...]
_ENCODER_SIZES = {
    *("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings", "num_hidden_layers"),
    *("num_attention_heads", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
}
_ENCODER_EPSILONS = {"layer_norm_eps", "layer_norm_epsilon"}
_MOST_TENSORS = 100_000
_LARGEST_NUMBER = 1e6  # of a scale or shift of latents
_MORE_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")  # labels, and states of pictures


def require_complete(checkpoint: Checkpoint, spec: FamilySpec, model: str, may_be_fixed: bool = False) -> None:
    """Raise `ModelError` unless text maps and layers of the text encoders match the configs, in a known format.

    The denoiser must take the autoencoder's latents and nothing else.

    Only names are checked, and for files also shapes: the weights of a pipeline may be packed, if it `may_be_fixed`.
    """
    denoiser = spec.denoiser
    if not may_be_fixed:
        _check_formats(checkpoint, spec, model)
    _check_latents(checkpoint, spec, model)
    maps = _implied(spec.required_maps, checkpoint, denoiser)
    found = {name for name in checkpoint.lazy_parameters(denoiser) if spec.map_pattern.search(name)}
    _compare(f"{model}: {denoiser}", "maps of the text", set(maps), found)
    _check_shapes(f"{model}: {denoiser}", checkpoint, denoiser, {name: (name, shape) for name, shape in maps.items()})
    for encoder in spec.encoders:
        part = encoder.part
        if not encoder.is_optional or checkpoint.has(part):
            own, needed = encoder_layout(checkpoint, encoder)
            _compare(f"{model}: {part}", "tensors of its layers", set(needed), set(own) & set(needed))
            _check_shapes(
                f"{model}: {part}", checkpoint, part, {own[name]: (name, shape) for name, shape in needed.items()}
            )


def encoder_layout(checkpoint: Checkpoint, encoder: TextEncoderSpec) -> tuple[dict[str, str], dict[str, _Shape]]:
    """A text encoder's parameters by their names without a prefix, and the shapes that its config implies by the same.

    `ModelError` if it cannot be a network's config.
    """
    names = checkpoint.lazy_parameters(encoder.part)
    is_llm = encoder.kind == "llm"
    prefix = language_prefix(names) if is_llm else "text_model."
    own = {name.removeprefix(prefix): name for name in names}
    return own, _implied(language_tensors if is_llm else encoder_tensors, checkpoint, encoder.part)


def _check_formats(checkpoint: Checkpoint, spec: FamilySpec, model: str) -> None:
    """Raise `ModelError` for quantised weights in any part, the autoencoder included."""
    for part in (spec.denoiser, "vae", *(encoder.part for encoder in spec.encoders)):
        if checkpoint.has(part):
            require_no_quantiser(checkpoint.config(part), f"{model}: {part}")
    source = checkpoint.source
    if source is not None and source.is_dir() and weight_variants(source / "vae"):
        stored_tensors(weight_file(source, "vae"))


def _check_latents(checkpoint: Checkpoint, spec: FamilySpec, model: str) -> None:
    """Raise `ModelError` for a denoiser with more inputs than latents: of inpainting, edit and depth models."""
    told = checkpoint.config(spec.denoiser)
    more = [name for name in _MORE_INPUTS if told.get(name) is not None]
    message = f"{model}: its {spec.denoiser} needs other inputs too, by {', '.join(more)} in its config"
    require(not more, f"{message}: give a text-to-image model", ModelError)
    if not checkpoint.has("vae"):
        return
    _check_latent_scale(checkpoint.config("vae"), model)
    taken, vae = checkpoint.config(spec.denoiser).get("in_channels"), checkpoint.config("vae")
    given = vae.get("latent_channels", vae.get("z_dim"))
    latents = given * spec.latent_patch**2 if isinstance(given, int) else given
    message = (
        f"{model}: its {spec.denoiser} takes {taken} channels and its autoencoder gives {latents}: it is an inpainting,"
        " edit or depth model; give a text-to-image model"
    )
    require(None in (taken, given) or taken == latents, message, ModelError)


def _check_latent_scale(vae: Config, model: str) -> None:
    """Raise `ModelError` unless what scales and shifts latents are numbers; a missing one has its default."""
    scale, shift = vae.get("scaling_factor", 1.0), vae.get("shift_factor")
    message = f"{model}: vae/config.json has the scaling_factor {scale!r} and the shift_factor {shift!r}"
    is_sound = _is_number(scale) and scale > 0 and (shift is None or _is_number(shift))
    require(is_sound, f"{message[:300]}: give the model with its own config.json", ModelError)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _implied(rule: Callable[[Config], NamedShapes], checkpoint: Checkpoint, part: str) -> dict[str, _Shape]:
    """The names and shapes that a part's config implies; `ModelError` if it cannot be a network's config."""
    config = checkpoint.config(part)
    try:
        found = dict(islice(rule(config), _MOST_TENSORS + 1))
        require(len(found) <= _MOST_TENSORS, f"it implies more than {_MOST_TENSORS} tensors", ModelError)
    # Any value of a config may be of another type, or too large.
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, ModelError) as error:
        raise ModelError(
            f"{checkpoint.source}: {part}/config.json lacks the number or sizes of layers ({error!r}); give its own"
            " config"
        ) from None
    return found


def _check_shapes(where: str, checkpoint: Checkpoint, part: str, wanted: Mapping[str, tuple[str, _Shape]]) -> None:
    """Check the shapes in the files that exist: a shard that nothing needs may be missing."""
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
            f"{where}: {name} has shape {found}, but its config.json implies {shape}: give the model with its own"
            " config.json",
            ModelError,
        )


def _compare(where: str, what: str, wanted: set[str], found: set[str]) -> None:
    missing, more = sorted(wanted - found), sorted(found - wanted)
    counts = f"{where} needs {len(wanted)} {what} by its config.json and has {len(wanted & found)}"
    require(
        not missing,
        f"{counts}; {missing[0] if missing else ''} is missing or renamed: give a complete model",
        ModelError,
    )
    require(
        not more,
        f"{counts} and {len(more)} more, such as {more[0] if more else ''}: give the model with its own config.json",
        ModelError,
    )


def encoder_tensors(config: Config) -> NamedShapes:
    """Names and shapes of the tensors of a CLIP (without `text_model.`) or a T5, by its config.

    `ValueError` for a number in it with which no encoder can compute.
    """
    for name in _ENCODER_SIZES & config.keys():
        if not isinstance(config[name], int) or isinstance(config[name], bool) or config[name] < 1:
            raise ValueError(f"{name} is {config[name]!r}")
    for name in _ENCODER_EPSILONS & config.keys():
        if not isinstance(config[name], float) or not 0 < config[name] < 1:
            raise ValueError(f"{name} is {config[name]!r}")
    if config.get("hidden_size", 0) % config.get("num_attention_heads", 1):
        raise ValueError(f"hidden_size {config['hidden_size']} is no multiple of num_attention_heads")
    return _t5_tensors(config) if "d_model" in config else _clip_tensors(config)


def _clip_tensors(config: Config) -> NamedShapes:
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


def _t5_tensors(config: Config) -> NamedShapes:
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
