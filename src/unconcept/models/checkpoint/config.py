"""Reads the configs of a diffusers folder: the class of a model's pipeline, and its family."""

import json
from pathlib import Path
from typing import Any

from ...core.errors import ModelError, require
from ..families import PIPELINES, family_of_pipeline
from ..family import FamilySpec


def config_folder(source: Path) -> Path:
    """The folder with a model's configs and tokenizers.

    It is a diffusers folder itself; for a single file, the folder with its name beside it, which needs no weights.
    """
    if source.suffix != ".safetensors":
        return source
    folder = source.with_suffix("")
    wanted = (
        f"{source} is a single file: put the configs and tokenizers of its base (a diffusers folder, weights not"
        f" needed) into {folder}"
    )
    require((folder / "model_index.json").exists(), wanted, ModelError)
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON config of a diffusers folder."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}; give a complete diffusers folder") from None
    require(isinstance(found, dict), f"{path} is not a JSON object; give a complete diffusers folder", ModelError)
    return found


def pipeline_kind(folder: Path) -> str:
    """The pipeline class of a diffusers folder; `ModelError` unless it is supported."""
    kind = str(read_config(folder / "model_index.json").get("_class_name"))
    require(kind in PIPELINES, f"{folder} holds a {kind}; supported are {', '.join(PIPELINES)}", ModelError)
    return kind


def family_of_folder(source: Path) -> FamilySpec:
    """The family of a diffusers folder, or of a single file's configs; `ModelError` unless it is supported."""
    folder = config_folder(source)
    return family_of_pipeline(pipeline_kind(folder), lambda part: read_config(folder / part / "config.json"))
