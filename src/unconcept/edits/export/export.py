"""Writes an edit as files that other tools load."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ...core.errors import EditError, SettingsError, require
from ...models.checkpoint.safetensors_io import tensor_shapes
from ...models.layouts.layout import ModelLayout
from ..base import Edit, origin_of
from .bake import bake, read_bakeable_weights
from .base_weights import BaseWeights, read_base_weights
from .checkpoint import write_folder, write_single_file
from .lora_factors import lora_factors, require_matrix
from .lora_keys import shared_lora_name
from .lora_writer import write_comfyui, write_kohya, write_peft, write_shared_lora
from .metadata import export_metadata

ExportTarget = Literal["comfyui", "comfyui-lora", "diffusers", "kohya", "peft", "single-file"]
EXPORT_TARGETS: tuple[ExportTarget, ...] = get_args(ExportTarget)
LORA_TARGETS = ("comfyui-lora", "kohya", "peft")
FOLDER_TARGETS = ("diffusers", "peft")  # the others are one .safetensors file
_METADATA_FILE = "unconcept.json"  # a folder's metadata; a single file has them in its header


@dataclass(frozen=True)
class ExportOutcome:
    """Says what an export wrote."""

    to: ExportTarget
    weights: int  # that the edit changes
    ranks: tuple[int, int] | None = None  # of a LoRA, the smallest and the largest
    error: float | None = None  # of a LoRA: |edit - LoRA| / |edit|
    left_out: tuple[str, ...] = ()  # of a folder: files that hold the unedited model

    def __str__(self) -> str:
        told = f"{self.to}: {self.weights} weights changed"
        if self.left_out:
            told += f", left out as unedited copies: {', '.join(self.left_out)}"
        if self.ranks is None or self.error is None:
            return told
        low, high = self.ranks
        return f"{told}, rank {low if low == high else f'{low} to {high}'}, relative error {self.error:.1e}"


def export_edit(
    edit: Edit, source: Path, to: ExportTarget, out: Path, dtype: torch.dtype | None = None, rank: int | None = None
) -> ExportOutcome:
    """Write the edit to `out` in the format of `to`.

    `source` is the diffusers folder or single file that the edit was made for; with dtype None its own dtype is kept. A
    LoRA of a low-rank edit is exact up to rounding unless `rank` is below the edit's own.
    """
    base = read_exportable_weights(edit, source, to, dtype, rank)
    if to in LORA_TARGETS:
        found = lora_factors(edit, base.weights, dtype, rank)
        told = export_metadata(edit, source, to, dtype, found.error)
        if to == "kohya":
            write_kohya(found, ModelLayout.of(source), out, told)
        elif to == "comfyui-lora":
            write_shared_lora(found, ModelLayout.of(source), out, told)
        else:
            write_peft(found, origin_of(edit).base, out, told)
        return ExportOutcome(to, len(edit.names), found.ranks, found.error)
    told = export_metadata(edit, source, to, dtype)
    left_out: tuple[str, ...] = ()
    if to == "comfyui":
        write_comfyui(edit, base.weights, dtype, ModelLayout.of(source), out, told)
    elif to == "single-file":
        write_single_file(edit, source, ModelLayout.of(source), dtype, out, told)
    elif dtype is None:
        left_out = bake(edit, source, out)
    else:
        left_out = write_folder(edit, source, dtype, out, told)
    if to == "diffusers":
        _tell(out, told)
    return ExportOutcome(to, len(edit.names), left_out=left_out)


def read_exportable_weights(
    edit: Edit, source: Path, to: ExportTarget, dtype: torch.dtype | None, rank: int | None
) -> BaseWeights:
    """Locate the weights of an edit. Raises `UsageError` if `to` cannot hold the edit or is not made of this source."""
    is_lora = to in LORA_TARGETS
    require(
        rank is None or (is_lora and rank >= 1),
        f"rank {rank}: give a rank of at least 1, and only --to {', '.join(LORA_TARGETS)} have one",
        SettingsError,
    )
    message = (
        f"{source} is a single file, but --to {to} needs a diffusers folder; `unconcept apply` writes an edited file"
    )
    base = read_base_weights(edit, source)
    require(is_lora or to == "comfyui" or source.is_dir(), message, EditError)
    if is_lora:
        for name, shape in tensor_shapes(base.places).items():
            require_matrix(name, len(shape))
            if to == "comfyui-lora":
                shared_lora_name(name, ModelLayout.of(source))
    elif to == "diffusers" and dtype is None:
        read_bakeable_weights(edit, source)
    return base


def _tell(folder: Path, told: Mapping[str, str]) -> None:
    (folder / _METADATA_FILE).write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")


def require_export_path(to: ExportTarget, out: Path) -> None:
    """Raise `EditError` if the path does not suit the target, which writes a folder or one .safetensors file."""
    if to in FOLDER_TARGETS:
        require(
            out.suffix != ".safetensors",
            f"--to {to} writes a folder, not {out.name}: give --out a folder's name",
            EditError,
        )
    else:
        require(
            out.suffix == ".safetensors", f"--to {to} writes one file: --out {out} must end in .safetensors", EditError
        )
