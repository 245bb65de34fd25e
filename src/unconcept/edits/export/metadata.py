"""Builds the header of exported files: how the edit was made and how it was written."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from ...core.recipe import without_folders
from ...core.versions import library_versions
from ...models.checkpoint.model_card import read_licence
from ...models.families import FAMILIES, families
from ..base import Edit, origin_of


def export_metadata(edit: Edit, source: Path, to: str, dtype: torch.dtype | None, error: float = 0.0) -> dict[str, str]:
    """Return the metadata as flat strings, the form that safetensors needs; `error` is a LoRA's error against the edit.

    The licence is the source's current one, or the one recorded in the edit if the source names none.
    """
    origin = origin_of(edit)
    told: dict[str, object] = {
        **{"version": version("unconcept"), "libraries": library_versions()},
        **{
            "export": to,
            "dtype": str(dtype).removeprefix("torch.") if dtype else "the base's own",
            "relative_error": error,
        },
        **{
            "base": origin.base,
            "base_hash": origin.base_hash,
            "family": origin.family,
            "licence": read_licence(source) or origin.licence or None,
        },
        **{"method": origin.method, "settings": without_folders(origin.settings), "kind": origin.kind},
        **{"targets": list(origin.targets), "anchors": list(origin.anchors), "retain": list(origin.retain)},
        **{"edit_hash": edit.hash, "report": dict(origin.report)},
    }
    known = {f"unconcept.{name}": value for name, value in told.items() if value is not None}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for name, value in known.items()
    }
    return {"format": "pt", **texts, **(_kohya_metadata(origin.family) if to == "kohya" else {})}


def _kohya_metadata(family: str) -> Mapping[str, str]:
    """Return the header fields that name the family to kohya's tools; they take a file without them for SD 1.x."""
    return families[family].kohya_metadata if family in FAMILIES else {}
