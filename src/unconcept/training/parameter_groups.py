"""Selects the parameters that a method trains, by names and shapes alone.

Numbers of tensors and parameters are those of SD 1.4. In a joint transformer (SD3, FLUX) the text has its own maps in
each block; `attn2` there (SD 3.5) is a second self-attention of the image. Where text and picture share all maps of a
block, as in Z-Image, only the refiner that the text passes alone is the text's.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from torch import Tensor

from ..core.errors import SettingsError, require
from ..models.text.parameters import layer_number

ParameterSelector = Literal[
    "xattn",  # cross-attention: 80 tensors, 43.96 M; joint: the text's maps of each block
    "kv",  # its keys and values: 32, 19.17 M
    "text-qk",  # joint transformers only: the text's queries and keys of each block, without biases (EraseAnything)
    "q-selfattn",  # self-attention and the queries of cross-attention (TRCE)
    "attn",  # the four maps of every attention: 160, 93.5 M
    "selfattn",  # attn1; joint: the image's maps of each block
    "noxattn",  # all but cross-attention, time embedding and output: 598, 813.5 M
    "maps-noxattn",  # linear maps and convolutions outside cross-attention: 388, 815.4 M; joint: as selfattn
    "maps",  # every linear map and convolution
    # Linear maps and 1x1 convolutions of the transformer blocks and around them: 192 weights (SPM); joint: those of
    # each block.
    "transformer-maps",
    "notime",  # all but time embedding and output
    "xlayer",  # cross-attention of two late blocks
    "selflayer",  # self-attention of two blocks
    "late-selfattn",  # self-attention of two late blocks (Scissorhands)
    "full",  # 686, 859.5 M
]
TextParameterSelector = Literal[
    "text-full",  # of a CLIP text encoder: 194 tensors
    "text-mlp-lastattn",  # 56, 59.0 M (few-shot erasing)
    "text-tokens",  # its token table
    "text-mlp",
    "text-attn",
    "text-mlp-attn",
    "text-norms",
    "text-embeddings",  # of tokens and positions
    "text-all",  # 196
]
_FOUR_MAPS = r"(to_q|to_k|to_v|to_out\.0)\.(weight|bias)$"
_OUTER_LAYERS = re.compile(r"^(time_embedding|conv_norm_out|conv_out|adaln_single|proj_out)\.|^scale_shift_table$")
_JOINT_KEY_MAP = re.compile(r"\.attn\.add_k_proj\.")
_TEXT_SIDE_MAPS = re.compile(r"\.attn\.(add_[qkv]_proj|to_add_out)\.")
_UNET_PATTERNS: dict[str, str] = {
    "xattn": r"\.attn2\.",
    "kv": r"\.attn2\.to_[kv]\.",
    "q-selfattn": r"\.attn1\.|\.attn2\.to_q\.",
    "attn": rf"\.attn[12]\.{_FOUR_MAPS}",
    "selfattn": r"\.attn1\.",
    "xlayer": r"^up_blocks\.2\.attentions\.[02]\..*\.attn2\.",
    "selflayer": r"^down_blocks\.[12]\.attentions\.0\..*\.attn1\.",
    "late-selfattn": r"^up_blocks\.[12]\.attentions\.1\..*\.attn1\.",
}
_MMDIT_PATTERNS: dict[str, str] = {
    "xattn": _TEXT_SIDE_MAPS.pattern,
    "kv": r"\.attn\.add_[kv]_proj\.",
    "text-qk": r"\.attn\.add_[qk]_proj\.weight$",
    "attn": r"\.attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)\.",
    "selfattn": rf"\.attn2?\.{_FOUR_MAPS}",
    "maps-noxattn": rf"\.attn2?\.{_FOUR_MAPS}",
    "transformer-maps": (
        r"\.(attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
        r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)\.weight$"
    ),
}
_TEXT_REFINER = re.compile(r"^context_refiner\.")
_SHARED_PATTERNS: dict[str, str] = {
    "xattn": r"^context_refiner\.\d+\.attention\.to_",
    "kv": r"^context_refiner\.\d+\.attention\.to_[kv]\.",
}
_TEXT_PATTERNS: dict[str, str] = {
    "text-full": r"^(text_model\.)?(encoder\.layers|final_layer_norm)\.",
    "text-mlp-lastattn": r"\.mlp\.fc",
    "text-tokens": r"\btoken_embedding\.",
    "text-mlp": r"\.mlp\.fc",
    "text-attn": r"\.self_attn\.",
    "text-mlp-attn": r"\.(mlp\.fc|self_attn\.)",
    "text-norms": r"layer_?norm\d?\.",
    "text-embeddings": r"\b(token|position)_embedding\.",
    "text-all": r"",
}


def select_parameters(
    parameters: Mapping[str, Tensor], which: ParameterSelector, joint: ParameterSelector | None = None
) -> tuple[str, ...]:
    """Select a denoiser's parameters from all of them by full name (`unet.`..., `transformer.`...).

    `joint` is the selector to use instead in a joint transformer. Raises `SettingsError` if the selector is not defined
    for such a network or selects nothing in it.
    """
    inner = {name.partition(".")[2]: name for name in parameters}
    kinds = ((_JOINT_KEY_MAP, _MMDIT_PATTERNS), (_TEXT_REFINER, _SHARED_PATTERNS))
    patterns = next((own for sign, own in kinds if any(map(sign.search, inner))), None)
    if patterns is None:
        rule = _unet(which, {name: parameters[full] for name, full in inner.items()})
    else:
        rule = _joint(joint or which, patterns)
    found = tuple(full for name, full in inner.items() if rule(name))
    require(bool(found), f"parameters {which!r}: this model has none of them, choose another group", SettingsError)
    return found


def select_text_parameters(parameters: Mapping[str, Tensor], which: TextParameterSelector) -> tuple[str, ...]:
    """Select a CLIP text encoder's parameters (`text_encoder.`...), whatever prefix their names have."""
    inner = {name.partition(".")[2]: name for name in parameters}
    layers = [int(number) for name in inner for number in re.findall(r"\blayers\.(\d+)\.", name)]
    last = re.compile(rf"\blayers\.{max(layers, default=-1)}\.self_attn\.")
    pattern = re.compile(_TEXT_PATTERNS[which])
    found = tuple(
        full
        for name, full in inner.items()
        if pattern.search(name) or (which == "text-mlp-lastattn" and last.search(name))
    )
    require(bool(found), f"parameters {which!r}: this text encoder has none of them, choose others", SettingsError)
    return found


def select_encoder_layers(
    method: str, encoders: Iterable[Mapping[str, Tensor]], layers: int | None, inside: str
) -> tuple[str, ...]:
    """Select parameters of the first layers of each text encoder whose name contains `inside`.

    None selects all layers and the final norm.
    """
    every = [name for own in encoders for name in select_text_parameters(own, "text-full")]
    count = 1 + max(map(layer_number, every))
    require(layers is None or layers <= count, f"{method}: layers must be at most the encoder's {count}, got {layers}")
    return tuple(name for name in every if inside in name and (layers is None or 0 <= layer_number(name) < layers))


def _joint(which: str, patterns: Mapping[str, str]) -> Callable[[str], bool]:
    require(
        which in (*patterns, "full"),
        f"parameters {which!r} are not defined for a joint transformer: choose one of {', '.join(patterns)}, full",
        SettingsError,
    )
    pattern = re.compile(patterns.get(which, ""))
    return lambda name: bool(pattern.search(name))


def _unet(which: str, parameters: Mapping[str, Tensor]) -> Callable[[str], bool]:
    """Build the rule of a selector for a UNet.

    SDXL is recognised by its second embedding. There the selectors of maps leave out embeddings and everything outside
    the blocks (ESD's code).
    """
    inside = any(name.startswith("add_embedding.") for name in parameters)

    def maps(name: str) -> bool:
        weight = parameters.get(f"{name.rpartition('.')[0]}.weight")
        return weight is not None and weight.ndim >= 2 and not (inside and ("emb" in name or "block" not in name))

    plain: dict[str, Callable[[str], bool]] = {
        "full": lambda name: True,
        "notime": lambda name: not _OUTER_LAYERS.search(name),
        "noxattn": lambda name: ".attn2." not in name and not _OUTER_LAYERS.search(name),
        "maps": maps,
        "maps-noxattn": lambda name: maps(name) and ".attn2." not in name,
        "transformer-maps": lambda name: (
            ".attentions." in name and name.endswith(".weight") and parameters[name].ndim >= 2
        ),
    }
    if which in plain:
        return plain[which]
    require(
        which in _UNET_PATTERNS,
        f"parameters {which!r} are of a joint transformer: choose one of {', '.join((*_UNET_PATTERNS, *plain))}",
        SettingsError,
    )
    pattern = re.compile(_UNET_PATTERNS[which])
    return lambda name: bool(pattern.search(name))
