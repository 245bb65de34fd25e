"""Reads LoRAs and patches of other tools (ESD, SPM, ACE, LECO, our own exports) as edits.

It reads kohya's files, old and new LoRAs of diffusers, PEFT folders, and full patches (`.diff`). An adapter with a
gate, such as SPM's, becomes the static LoRA of its file, because the file does not contain the gate.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...core.errors import EditError, ModelError, require
from ...core.regular_files import require_own_files, require_regular_file
from ...models.checkpoint.locations import has_part, tensor_locations
from ...models.checkpoint.safetensors_io import tensor_shapes as shapes_of
from ...models.families import FAMILIES, families
from ...models.layouts.layout import ModelLayout
from ...models.layouts.packing import Packing
from ..weight_edits import DenseEdit, LowRankEdit
from .lora_keys import lora_name_candidates

_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LORA_NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_LORA_KEY = re.compile(
    r"(?P<module>.+?)(?:\.lora|_lora|\.lora_linear_layer)?"
    r"\.(?P<role>lora_down|lora_up|lora_A|lora_B|down|up|alpha|diff|diff_b)(?:\.default)?(?:\.weight)?"
)
_LORA_ROLES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}
# Names of modules from the time when adapters were attention processors.
_OLD_NAMES = ((".processor.", "."), (".self_attn.to_q", ".self_attn.q_proj"), (".self_attn.to_k", ".self_attn.k_proj"))
_OLDER_NAMES = ((".self_attn.to_v", ".self_attn.v_proj"), (".self_attn.to_out", ".self_attn.out_proj"))


@dataclass
class _Patch:
    """The tensors and alpha of one module in a file."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None


def read_lora(path: Path, source: Path) -> LowRankEdit | DenseEdit:
    """Read a LoRA file or PEFT folder as an edit of `source`, a diffusers folder or single file; without an origin.

    Raises `EditError` if a key has no place in the model or a shape does not fit; no key is dropped silently.
    """
    try:
        require_regular_file(path, EditError)
        require_own_files(path, EditError)
        patches = _patches(path)
        _check_family(path, source)
        require(bool(patches), "it holds no LoRA and no patch: give another file", EditError)
        shapes = dict(_shapes(source))
        places = _places(shapes, source)
        unknown = [module for module in patches if module not in places]
        message = (
            f"{len(unknown)} of its {len(patches)} modules are not in {source.name}, the first is"
            f" {unknown[0] if unknown else ''}: it is for another family"
        )
        require(not unknown, message, EditError)
        meant = [name for module in patches for name in places[module]]
        twice = len(meant) - len(set(meant))
        require(not twice, f"it holds {twice} of its {len(patches)} modules under two names: keep one", EditError)
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        deltas: dict[str, Tensor] = {}
        for module, patch in patches.items():
            for name, laid in places[module].items():
                if {"down", "up"} & set(patch.tensors):
                    pairs[name] = _pair(module, patch, shapes[f"{name}.weight"], laid)
                deltas |= _deltas(module, patch, name, shapes, laid)
    except EditError as error:
        raise EditError(f"LoRA {path}: {error}") from None
    if not deltas:
        return LowRankEdit({f"{name}.weight": pair for name, pair in pairs.items()})
    full = {f"{name}.weight": (up @ down).reshape(shapes[f"{name}.weight"]) for name, (up, down) in pairs.items()}
    return DenseEdit(full | deltas)


def _check_family(path: Path, source: Path) -> None:
    """Raise `EditError` if the header names another family than the model's.

    Names and shapes are not enough: self-attentions of SD 1.x and 2.x have the same.
    """
    layout = _layout(source)
    if path.is_dir() or layout is None:
        return
    told = _header(path)
    base = told.get("ss_base_model_version", "")
    known = (families[name] for name in FAMILIES if families[name].kohya_base)
    said = told.get("unconcept.family") or next((s.name for s in known if base.startswith(s.kohya_base)), None)
    own = layout.spec.name
    require(
        said in (None, own),
        f"its header says that it is for {said} models, {source.name} is {own}: it is for another family",
        EditError,
    )


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _layout(source: Path) -> ModelLayout | None:
    """Return the original layout of the model's family, or None if it has none."""
    try:
        return ModelLayout.of(source)
    except ModelError:
        return None


def _patches(path: Path) -> dict[str, _Patch]:
    """Read the patches, by the file's own module names."""
    if path.is_dir() and not (path / _PEFT_FILE).exists():
        found = {part: _patches(path / part) for part in _LORA_NETWORKS if (path / part / _PEFT_FILE).exists()}
        require(bool(found), f"the folder has no {_PEFT_FILE}: give a PEFT folder or a .safetensors file", EditError)
        return {f"{part}.{module}": patch for part, patches in found.items() for module, patch in patches.items()}
    tensors, told = _tensors(path / _PEFT_FILE if path.is_dir() else path)
    patches: dict[str, _Patch] = defaultdict(_Patch)
    for key, tensor in tensors.items():
        match = _LORA_KEY.fullmatch(key)
        require(
            match is not None,
            f"{key} is neither half of a LoRA pair nor a .diff; only plain LoRA adapters can be read",
            EditError,
        )
        assert match is not None
        patch, role = patches[_module(match["module"])], match["role"]
        require(bool(torch.isfinite(tensor).all()), f"{key} holds NaN or infinity", EditError)
        if role == "alpha":
            patch.alpha = float(tensor)
        else:
            patch.tensors[_LORA_ROLES.get(role, role)] = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    _scale(patches, _json(path / _PEFT_CONFIG) if path.is_dir() else told)
    return dict(patches)


def _module(stem: str) -> str:
    """Translate older names of a module to the current one."""
    stem = stem.removeprefix("base_model.model.")
    for old, new in (*_OLD_NAMES, *_OLDER_NAMES):
        stem = stem.replace(old, new)
    return stem + ".0" if stem.endswith(".to_out") else stem


def _scale(patches: Mapping[str, _Patch], config: Mapping[str, Any]) -> None:
    """Set alpha from PEFT's config, or from the config that diffusers puts into the header, part by part."""
    require(
        not config.get("use_dora") and config.get("peft_type", "LORA") == "LORA",
        "its config names another kind of adapter; only plain LoRA can be read",
        EditError,
    )
    for module, patch in patches.items():
        part = module.partition(".")[0]
        own = (
            config
            if "lora_alpha" in config
            else {k.removeprefix(f"{part}."): v for k, v in config.items() if k.startswith(f"{part}.")}
        )
        if patch.alpha is None and "down" in patch.tensors and "lora_alpha" in own:
            alpha = _by_pattern(own.get("alpha_pattern") or {}, module, own["lora_alpha"])
            rank = patch.tensors["down"].shape[0]
            patch.alpha = alpha * rank**0.5 if own.get("use_rslora") else alpha


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """Look a module up by PEFT's rule: a pattern matches the module's name or its end."""
    return float(
        next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), otherwise)
    )


def _pair(module: str, patch: _Patch, shape: tuple[int, ...], laid: Packing) -> tuple[Tensor, Tensor]:
    """Return up (o, r), scaled by alpha / r, and down (r, d); a convolution's weight counts as (o, i * h * w).

    If the file's map packs several of our maps, each takes its rows of up.
    """
    up, down = patch.tensors.get("up"), patch.tensors.get("down")
    if up is None or down is None:
        raise EditError(f"{module} has half of a pair; both lora_up and lora_down are needed")
    message = (
        f"{module} has a pair of shapes {tuple(up.shape)} and {tuple(down.shape)}, which does not fit the model's"
        f" {shape}: it is for another model"
    )
    plain = up.ndim >= 2 and down.ndim >= 2 and up.shape[2:].numel() == 1
    wide = shape[0] // laid.rows[1] * laid.rows[2]
    require(
        plain
        and up.shape[1] == down.shape[0]
        and (up.shape[0], down[0].numel()) == (wide, torch.Size(shape[1:]).numel()),
        message,
        EditError,
    )
    rank = down.shape[0]
    return (1.0 if patch.alpha is None else patch.alpha / rank) * laid.unpack(up.flatten(1)), down.flatten(1)


def _deltas(
    module: str, patch: _Patch, name: str, shapes: Mapping[str, tuple[int, ...]], laid: Packing
) -> dict[str, Tensor]:
    found = {}
    for role, kind in (("diff", "weight"), ("diff_b", "bias")):
        if role in patch.tensors:
            delta, shape = laid.unpack(patch.tensors[role]), shapes.get(f"{name}.{kind}")
            require(
                tuple(delta.shape) == shape,
                f"{module}.{role} has shape {tuple(delta.shape)}, but the model's {kind} has {shape}",
                EditError,
            )
            found[f"{name}.{kind}"] = delta
    return found


def _shapes(source: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the full name and shape of every parameter of the networks, without reading the tensors."""
    for part in _LORA_NETWORKS:
        if has_part(source, part):
            yield from ((f"{part}.{name}", shape) for name, shape in shapes_of(tensor_locations(source, part)).items())


def _places(shapes: dict[str, tuple[int, ...]], source: Path) -> dict[str, dict[str, Packing]]:
    """Map each name that a LoRA may use to our modules: one, or several that the original network packs into one map.

    Ambiguous names are left out.
    """
    layout = _layout(source)
    places: dict[str, dict[str, Packing]] = defaultdict(dict)
    for name in (name for name in shapes if name.endswith(".weight")):
        for known, laid in _names(name, layout):
            places[known][name.removesuffix(".weight")] = laid
    return {known: modules for known, modules in places.items() if _have_rows_of_their_own(modules)}


def _have_rows_of_their_own(modules: Mapping[str, Packing]) -> bool:
    """Whether no two modules use the same rows of a packed map."""
    return len(modules) == len({laid.rows for laid in modules.values()})


def _names(name: str, layout: ModelLayout | None) -> list[tuple[str, Packing]]:
    """List the candidate names; a module that the original network lacks has only its diffusers names."""
    try:
        return list(lora_name_candidates(name, layout))
    except (ModelError, EditError):
        return list(lora_name_candidates(name, None))


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors of a file, and the LoRA config that diffusers puts into its header."""
    require(
        path.suffix == ".safetensors",
        "only .safetensors files and PEFT folders can be read: pickled files can run code when loaded",
        EditError,
    )
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, told
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"{error}; the file is missing, cut short or damaged") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    except (OSError, ValueError) as error:
        raise EditError(f"{path.name}: {error}") from None
