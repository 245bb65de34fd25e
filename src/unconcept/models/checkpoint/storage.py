"""How the weights of a file are stored: as plain floats, or as 8-bit floats with or without a scale.

ComfyUI's first scaled files hold, beside an 8-bit `x.weight`, a `x.scale_weight` by which it is multiplied, and a
`x.scale_input` that only matters where activations are 8-bit too; a tensor `scaled_fp8` marks them. For its present
ones see `comfyui_formats`. Every other quantised format is refused: its weights would be read as other numbers than the
tools of that format compute with.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ...core.errors import ModelError, require
from .comfyui_formats import companions_of, scaled_layers
from .safetensors_io import EIGHT_BIT_DTYPES, SAFETENSORS_DTYPES, TensorLocation, open_file
from .weight_files import tensor_files

_SCALE, _INPUT_SCALE, _MARKER = "scale_weight", "scale_input", "scaled_fp8"
_WEIGHT_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")
_FORMATS = {  # what a tensor's name tells of the format
    "absmax": "bitsandbytes' 4-bit format",
    "quant_map": "bitsandbytes' 4-bit format",
    "quant_state": "bitsandbytes' 4-bit format",
    "SCB": "bitsandbytes' 8-bit format",
    "weight_format": "bitsandbytes' 8-bit format",
    "comfy_quant": "ComfyUI's quantised format",
    "weight_scale": "a scaled format of ComfyUI or BFL, without a mark that names it",
    "input_scale": "a scaled format of ComfyUI or BFL, without a mark that names it",
    "wscales": "SVDQuant",
    "smooth": "SVDQuant",
    "qweight": "GPTQ, AWQ or SVDQuant",
    "qzeros": "GPTQ or AWQ",
    "_data": "quanto or torchao",
    "lora_A": "PEFT, with adapters that are not fused",
    "lora_B": "PEFT, with adapters that are not fused",
    "base_layer": "PEFT, with adapters that are not fused",
}
_FUSED_PROJECTIONS = ("to_kv", "to_qkv", "to_added_qkv")  # of attentions; longer names are of other networks
_OWN_ATTENTION = re.compile(r"^(encoder|decoder)\.mid_block\.attentions\.\d+$")
_REMEDY = (
    "give plain weights in float32, float16, bfloat16 or float8, or in float8 with scale_weight or a marked"
    " weight_scale, one number a tensor"
)


def stored_tensors(path: Path) -> dict[str, TensorLocation]:
    """The location of each tensor of a weight file or an index of shards, by its name there, without scales.

    `ModelError` if the file holds a quantised format that is not understood.
    """
    files = tensor_files(path)
    marked, dtypes = scaled_layers(files), _dtypes(files)
    scale_names = {_scaled_weight(name): name for name in files if _leaf(name) == _SCALE} | marked
    scales = {weight: TensorLocation(files[name], name) for weight, name in scale_names.items()}
    beside = {name for weight in marked for name in companions_of(weight)}
    names = [name for name in files if _leaf(name) not in (_SCALE, _INPUT_SCALE, _MARKER) and name not in beside]
    _require_floats(path, names, dtypes)
    eight_bit = {name for name in names if dtypes.get(name) in EIGHT_BIT_DTYPES}
    for name in scales:
        is_known = name in eight_bit or (name in files and name not in dtypes)  # A shard that nothing needs.
        require(is_known, f"{path}: {name} has a scale but is no 8-bit float; {_REMEDY}", ModelError)
    return {
        name: TensorLocation(files[name], name, scale=scales.get(name), is_eight_bit=name in eight_bit)
        for name in names
    }


def require_no_quantiser(config: Mapping[str, object], where: str) -> None:
    """Raise `ModelError` if the config of a part names a quantised format."""
    told = config.get("quantization_config")
    kind = told.get("quant_method", "unknown") if isinstance(told, dict) else told
    require(not told, f"{where}: its config.json names quantised weights ({kind}); {_REMEDY}", ModelError)


def _require_floats(path: Path, names: Sequence[str], dtypes: Mapping[str, str]) -> None:
    """Raise `ModelError` for a tensor that is no plain weight: by name, dtype, or the tensor it stands beside."""
    known = set(names)
    for name in sorted(names, key=lambda name: (_format(name) is None, name)):  # The most telling one comes first.
        module, _, leaf = name.rpartition(".")
        dtype = dtypes.get(name, "F32")
        is_beside = leaf not in _WEIGHT_LEAVES and f"{module}.weight" in known
        is_within = any(name[:i] in known for i, letter in enumerate(name) if letter == ".")
        is_packed = dtype in _INTEGERS and leaf == "weight"
        is_unknown = dtype not in SAFETENSORS_DTYPES and dtype not in EIGHT_BIT_DTYPES
        told = None if _is_own_projection(name, known) else _format(name)
        message = (
            f"{path}: {name} ({told or dtype}) belongs to weights in a quantised or fused format, which is not read;"
            f" {_REMEDY}"
        )
        require(not (told or is_beside or is_within or is_packed or is_unknown), message, ModelError)


def _is_own_projection(name: str, known: Collection[str]) -> bool:
    """Whether a map of queries, keys and values is Qwen-Image's autoencoder's own; a fused one has `to_q` beside it."""
    stem, found, _ = name.partition(".to_qkv.")
    return bool(found) and _OWN_ATTENTION.search(stem) is not None and f"{stem}.to_q.weight" not in known


def _format(name: str) -> str | None:
    """The format that a tensor's name tells; None for the names of plain weights."""
    words = name.split(".")
    if any(word in _FUSED_PROJECTIONS for word in words):
        return "fused attention projections"
    return next((told for word in words for start, told in _FORMATS.items() if word.startswith(start)), None)


def _dtypes(files: Mapping[str, Path]) -> dict[str, str]:
    """The dtype of each tensor in the files that exist: a shard that nothing needs may be missing."""
    found: dict[str, str] = {}
    for path in set(files.values()):
        if path.exists():
            with open_file(path) as file:
                names = [name for name in file.keys() if files.get(name) == path]
                found |= {name: file.get_slice(name).get_dtype() for name in names}
    return found


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _scaled_weight(scale: str) -> str:
    return f"{scale.removesuffix(_SCALE)}weight"
