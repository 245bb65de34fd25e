"""Write an edit as files that other tools load."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ...core.errors import EditError, SettingsError, require
from ...models.layouts.layout import Layout
from ..base import Edit, origin_of
from .bake import bake
from .base_weights import original
from .checkpoint import write_folder, write_single_file
from .lora_factors import paired
from .lora_writer import write_comfyui, write_kohya, write_peft
from .metadata import header

Target = Literal["comfyui", "diffusers", "kohya", "peft", "single-file"]
TARGETS: tuple[Target, ...] = get_args(Target)
FOLDERS = ("diffusers", "peft")  # the others are one .safetensors file
ABOUT = "unconcept.json"  # what a file says in its header, for a folder


@dataclass(frozen=True)
class Exported:
    """What was written."""

    to: Target
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


def export(edit: Edit, source: Path, to: Target, out: Path, dtype: torch.dtype | None = None, rank: int | None = None) -> Exported:
    """`source` is the diffusers folder or single file the edit was made for; None as dtype is its own.

    A LoRA (kohya, peft) of a low-rank edit is exact to the dtype's rounding unless `rank` is below its own.
    """
    is_lora = to in ("kohya", "peft")
    require(rank is None or (is_lora and rank >= 1), f"rank {rank}: only --to kohya and peft have one, of at least 1", SettingsError)
    base = original(edit, source)
    if is_lora:
        found = paired(edit, base.weights, dtype, rank)
        told = header(edit, source, to, dtype, found.error)
        if to == "kohya":
            write_kohya(found, Layout.of(source), out, told)
        else:
            write_peft(found, origin_of(edit).base, out, told)
        return Exported(to, len(edit.names), found.ranks, found.error)
    told = header(edit, source, to, dtype)
    left_out: tuple[str, ...] = ()
    whole = to == "comfyui" or source.is_dir()
    message = f"{source} is a single file: --to {to} is made of a diffusers folder; `unconcept apply` writes the edited file"
    require(whole, message, EditError)
    if to == "comfyui":
        write_comfyui(edit, base.weights, dtype, Layout.of(source), out, told)
    elif to == "single-file":
        write_single_file(edit, source, Layout.of(source), dtype, out, told)
    elif dtype is None:
        left_out = bake(edit, source, out)
    else:
        left_out = write_folder(edit, source, dtype, out, told)
    if to == "diffusers":
        _tell(out, told)
    return Exported(to, len(edit.names), left_out=left_out)


def _tell(folder: Path, told: Mapping[str, str]) -> None:
    (folder / ABOUT).write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")


def check_place(to: Target, out: Path) -> None:
    """`EditError` unless the path can be what the target writes: a folder, or one .safetensors file."""
    if to in FOLDERS:
        require(out.suffix != ".safetensors", f"--to {to} writes a folder, not {out.name}: give --out a folder's name", EditError)
    else:
        require(out.suffix == ".safetensors", f"--to {to} writes one file: --out {out} must end in .safetensors", EditError)
