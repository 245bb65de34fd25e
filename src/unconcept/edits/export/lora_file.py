"""Reads the tensors, scales and header of a LoRA file or PEFT folder, module by module, whatever model it is for."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...core.errors import EditError, require
from ...models.checkpoint.safetensors_io import widen_eight_bit

_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_LORA_KEY = re.compile(
    r"(?P<module>.+?)(?:\.lora|_lora|\.lora_linear_layer)?"
    r"\.(?P<role>lora_down|lora_up|lora_A|lora_B|down|up|alpha|diff|diff_b|set_weight)"
    r"(?:\.default)?(?:\.(?P<kind>weight|bias))?"
)
_LORA_ROLES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}
# Names of modules from the time when adapters were attention processors.
_OLD_NAMES = ((".processor.", "."), (".self_attn.to_q", ".self_attn.q_proj"), (".self_attn.to_k", ".self_attn.k_proj"))
_OLDER_NAMES = ((".self_attn.to_v", ".self_attn.v_proj"), (".self_attn.to_out", ".self_attn.out_proj"))
_OTHER_KINDS = {  # what a key tells of an adapter that is no plain LoRA
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    "boft_": "OFT",
    "lora_mid": "a LoRA with Tucker factors",
    "on_input": "IA3",
    "a1.weight": "GLoRA",
    "w_norm": "a LyCORIS norm",
    "attention_gate": "a gated adapter",
    "bundle_emb": "OneTrainer's embedding, bundled with a LoRA: save the LoRA without it",
    "string_to_param": "a textual inversion",
    "emb_params": "a textual inversion",
    "lora_embedding_": "a LoRA of an embedding",
    "reshape_weight": "a LoRA that widens the model's input",
    "ip_adapter": "an IP-Adapter",
    "control_model": "a ControlNet",
}
_NUMBERED_KEY = re.compile(r"(unet|text_encoder):\d+:")
_MOST_PATTERN, _MOST_REPEATS = 300, 3  # characters and repetitions in a pattern for names of modules


class _PeftConfig(BaseModel):
    """What PEFT's config tells of scales; other fields do not matter here."""

    peft_type: str = "LORA"
    use_dora: bool = False
    use_rslora: bool = False
    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None


_TABLE: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


@dataclass
class Patch:
    """The tensors and alpha of one module in a file."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By role: down, up, up_bias, diff, diff_b, set_weight."""
    alpha: float | None = None

    @property
    def scale(self) -> float:
        """alpha / rank, or 1 without alpha."""
        return 1.0 if self.alpha is None else self.alpha / self.tensors["down"].shape[0]


@dataclass(frozen=True)
class LoraFile:
    """A file's patches by its own names of modules, other tensors by their names, and its header."""

    patches: Mapping[str, Patch]
    others: Mapping[str, Tensor]
    header: Mapping[str, str]


def is_lora_key(key: str) -> bool:
    """Whether a key names a part of a LoRA or patch, of this or of another kind."""
    return _LORA_KEY.fullmatch(key) is not None or other_kind(key) is not None


def other_kind(key: str) -> str | None:
    """The kind of adapter that a key belongs to, if it is no plain LoRA."""
    if _NUMBERED_KEY.match(key):
        return "a LoRA whose modules are numbered, not named"
    return next((kind for part, kind in _OTHER_KINDS.items() if part in key), None)


def read_lora_file(path: Path) -> LoraFile:
    """Read a LoRA file or PEFT folder. Raises `EditError` for other kinds of adapters and for what is damaged."""
    if path.is_dir() and not (path / _PEFT_FILE).exists():
        found = {part: read_lora_file(path / part) for part in LORA_NETWORKS if (path / part / _PEFT_FILE).exists()}
        require(bool(found), f"the folder has no {_PEFT_FILE}: give a PEFT folder or a .safetensors file", EditError)
        patches = {f"{part}.{module}": patch for part, file in found.items() for module, patch in file.patches.items()}
        return LoraFile(patches, {}, {})
    tensors, header = _tensors(path / _PEFT_FILE if path.is_dir() else path)
    grouped: dict[str, Patch] = defaultdict(Patch)
    others = {}
    for key, tensor in tensors.items():
        kind = other_kind(key)
        require(kind is None, f"{key} belongs to {kind}; only plain LoRA adapters can be read", EditError)
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            others[key] = tensor
        else:
            _add(grouped[_module(match["module"])], match["role"], match["kind"], key, tensor)
    config = _config(path / _PEFT_CONFIG) if path.is_dir() else _table(header.get("lora_adapter_metadata"))
    _require_pairs(grouped)
    _set_alphas(grouped, config)
    return LoraFile(dict(grouped), others, {} if path.is_dir() else header)


def _add(patch: Patch, role: str, kind: str | None, key: str, tensor: Tensor) -> None:
    role = _LORA_ROLES.get(role, role)
    if role == "alpha":
        require(tensor.numel() == 1, f"{key} has {tensor.numel()} elements; an alpha is one number", EditError)
        patch.alpha = float(tensor)
        return
    require(tensor.is_floating_point(), f"{key} is stored as {_dtype(tensor)}; only floats can be read", EditError)
    is_bias = kind == "bias"
    require(not is_bias or role == "up", f"{key} is the bias of a down map; only plain LoRA can be read", EditError)
    patch.tensors[f"{role}_bias" if is_bias else role] = tensor


def _require_pairs(patches: Mapping[str, Patch]) -> None:
    """Raise `EditError` for alphas alone and for halves of pairs."""
    alone = [module for module, patch in patches.items() if not patch.tensors]
    require(
        not alone or len(alone) < len(patches),
        f"it holds alphas ({len(alone)}) and no pair: give the whole file",
        EditError,
    )
    require(not alone, f"{alone[0] if alone else ''} has an alpha and no pair: give the whole file", EditError)
    for module, patch in patches.items():
        halves = {"down", "up"} & set(patch.tensors)
        needs_pair = patch.alpha is not None or "up_bias" in patch.tensors
        is_whole = len(halves) == 2 or not (halves or (needs_pair and not {"diff", "diff_b"} & set(patch.tensors)))
        require(is_whole, f"{module} has half of a pair; both lora_up and lora_down are needed", EditError)
        if halves:
            down, up = patch.tensors["down"], patch.tensors["up"]
            fits = down.ndim >= 2 and up.ndim >= 2 and down.shape[0] >= 1
            shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
            require(fits, f"{module} has a pair of shapes {shapes}, which are no matrices", EditError)


def _module(stem: str) -> str:
    """Translate older names of a module to the current one."""
    stem = stem.removeprefix("base_model.model.")
    for old, new in (*_OLD_NAMES, *_OLDER_NAMES):
        stem = stem.replace(old, new)
    return stem + ".0" if stem.endswith(".to_out") else stem


def _set_alphas(patches: Mapping[str, Patch], table: Mapping[str, object]) -> None:
    """Set alpha from PEFT's config, or from the config that diffusers puts into the header, part by part."""
    whole = _peft_config(table)
    for module, patch in patches.items():
        part = module.partition(".")[0]
        own = whole
        if whole.lora_alpha is None:
            inner = {key.removeprefix(f"{part}."): value for key, value in table.items() if key.startswith(f"{part}.")}
            own = _peft_config(inner)
        if patch.alpha is None and "down" in patch.tensors and own.lora_alpha is not None:
            alpha = _by_pattern(own.alpha_pattern or {}, module, own.lora_alpha)
            rank = patch.tensors["down"].shape[0]
            patch.alpha = alpha * rank**0.5 if own.use_rslora else alpha


def _peft_config(table: Mapping[str, object]) -> _PeftConfig:
    try:
        config = _PeftConfig.model_validate(table)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise EditError(f"its config has a bad {place}: {fault['msg'].lower()}") from None
    plain = not config.use_dora and config.peft_type == "LORA"
    require(plain, "its config names another kind of adapter; only plain LoRA can be read", EditError)
    return config


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """Look a module up by PEFT's rule: a pattern matches the module's name or its end."""
    for pattern, value in patterns.items():
        if module == pattern or module.endswith(f".{pattern}"):
            return value
    for pattern, value in patterns.items():
        # A pattern that repeats within a repetition could take for ever.
        repeats, nested = len(re.findall(r"[*+{]", pattern)), re.search(r"[)*+}?][*+{]|\)\?|\\\d", pattern)
        simple = len(pattern) <= _MOST_PATTERN and repeats <= _MOST_REPEATS and nested is None
        try:
            found = simple and re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise EditError(f"its alpha_pattern {pattern!r} is no pattern: {error}") from None
        require(simple, f"its alpha_pattern {pattern[:60]!r} is too complex: name the modules", EditError)
        if found:
            return value
    return otherwise


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a file, 8-bit floats and half precision as float32, and its header."""
    require(
        path.suffix == ".safetensors",
        "only .safetensors files and PEFT folders can be read: pickled files can run code when loaded",
        EditError,
    )
    try:
        with safe_open(path, "pt") as file:
            header, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"{error}; the file is missing, cut short or damaged") from None
    return {name: _widened(name, tensor) for name, tensor in tensors.items()}, header


def _widened(name: str, tensor: Tensor) -> Tensor:
    tensor = widen_eight_bit(tensor)
    if not tensor.is_floating_point():
        return tensor
    require(bool(torch.isfinite(tensor).all()), f"{name} holds NaN or infinity", EditError)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _table(text: str | None) -> dict[str, object]:
    """Read the table that diffusers puts into the header."""
    try:
        return _TABLE.validate_json(text) if text is not None else {}
    except ValidationError:
        raise EditError("its header's lora_adapter_metadata is no table of settings: remove it or save again") from None


def _config(path: Path) -> dict[str, object]:
    try:
        return _TABLE.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        told = str(error).splitlines()[0] if isinstance(error, OSError) else "it is no table of settings"
        raise EditError(f"{path.name}: {told}; give PEFT's own config") from None
