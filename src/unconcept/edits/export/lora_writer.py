"""Writes LoRA files and patches under the names that other tools expect."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...models.checkpoint.safetensors_io import write_tensors
from ...models.layouts.layout import ModelLayout
from ...models.layouts.packing import Packing, pack_members
from ..base import Edit
from .lora_factors import LoraFactors
from .lora_keys import comfyui_patch, kohya_name, shared_lora_name


def write_kohya(pairs: LoraFactors, layout: ModelLayout, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a kohya LoRA with alpha = rank, so that a strength of 1 is the edit as made.

    alpha is stored in float32, in which every rank is exact. Pairs of smaller rank are padded with zeros to one rank,
    because diffusers loses the alphas of the attentions if ranks differ.
    """
    fused = _fused(pairs, layout, kohya_name)
    rank = max(down.shape[0] for _, down in fused.values())
    tensors: dict[str, Tensor] = {}
    for key, (up, down) in fused.items():
        missing = rank - down.shape[0]
        tensors[f"{key}.lora_up.weight"] = torch.cat([up, up.new_zeros(up.shape[0], missing, *up.shape[2:])], 1)
        tensors[f"{key}.lora_down.weight"] = torch.cat([down, down.new_zeros(missing, *down.shape[1:])])
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    told = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    write_tensors(path, tensors, {**metadata, **told})


def write_shared_lora(pairs: LoraFactors, layout: ModelLayout, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a LoRA as lora_A and lora_B without alphas, by names that ComfyUI and diffusers both load."""
    tensors: dict[str, Tensor] = {}
    for key, (up, down) in _fused(pairs, layout, shared_lora_name).items():
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    write_tensors(path, tensors, metadata)


def _fused(
    pairs: LoraFactors, layout: ModelLayout, named: Callable[[str, ModelLayout], tuple[str, Packing]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return one pair for each name of a module.

    If the original network packs several of our maps into one, their pairs are concatenated: that is exact, and the
    ranks add up.
    """
    found: dict[str, dict[str, tuple[Tensor, Tensor, Packing]]] = {}
    for name, (up, down) in pairs.pairs.items():
        key, laid = named(name, layout)
        found.setdefault(key, {})[name] = up, down, laid
    return {key: _side_by_side(members) for key, members in found.items()}


def _side_by_side(members: Mapping[str, tuple[Tensor, Tensor, Packing]]) -> tuple[Tensor, Tensor]:
    ups = [pack_members({name: (up, laid)}) for name, (up, _, laid) in members.items()]
    return torch.cat(ups, 1).contiguous(), torch.cat([down for _, down, _ in members.values()])


def write_comfyui(
    edit: Edit,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    layout: ModelLayout,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write full patches for ComfyUI: the change of each weight (`.diff`) and each bias (`.diff_b`)."""
    found: dict[str, dict[str, tuple[Tensor, Packing]]] = {}
    for name, weight in weights.items():
        key, laid = comfyui_patch(name, layout)
        found.setdefault(key, {})[name] = edit.delta(name, weight).to(dtype or weight.dtype), laid
    write_tensors(path, {key: pack_members(members) for key, members in found.items()}, metadata)


def write_peft(pairs: LoraFactors, base: str, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write PEFT adapters: one in `folder`, or one in a subfolder for each part if the edit changes several parts."""
    parts = sorted({name.partition(".")[0] for name in pairs.pairs})
    for part in parts:
        place = folder / part if len(parts) > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        own = {
            name.removeprefix(f"{part}.").removesuffix(".weight"): pair
            for name, pair in pairs.pairs.items()
            if name.startswith(f"{part}.")
        }
        ranks = {module: down.shape[0] for module, (_, down) in own.items()}
        (place / "adapter_config.json").write_text(json.dumps(_config(ranks, base), indent=2), encoding="utf-8")
        tensors = {f"base_model.model.{module}.lora_A.weight": down for module, (_, down) in own.items()}
        tensors |= {f"base_model.model.{module}.lora_B.weight": up for module, (up, _) in own.items()}
        write_tensors(place / "adapter_model.safetensors", tensors, metadata)


def _config(ranks: Mapping[str, int], base: str) -> dict[str, object]:
    """Build PEFT's config with alpha = rank for every module."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != common}
    return {
        **{"peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True},
        **{
            "r": common,
            "lora_alpha": common,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(ranks),
        },
        **{
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
        },
    }
