"""Reads the configs of a diffusers folder: the class of a model's pipeline, and its family."""

import json
from pathlib import Path
from typing import Any

from ...core.errors import ModelError, require
from ..families import PIPELINES, families, family_of_pipeline
from ..family import FamilySpec
from .published import published_configs
from .safetensors_io import open_file

_named_configs: dict[Path, Path] = {}  # config folders that the user named, by single file


def config_folder(source: Path) -> Path:
    """The folder with a model's configs and tokenizers.

    It is a diffusers folder itself. For a single file it is the one that the user named, else the folder with the
    file's name beside it, else the packaged one that fits the file; it needs no weights.
    """
    if source.suffix not in (".safetensors", ".gguf"):
        return source
    beside = source.with_suffix("")
    if source in _named_configs:
        return _named_configs[source]
    message = f"{source}: give --config FOLDER, a diffusers folder with the model's text encoders and autoencoder"
    require(source.suffix != ".gguf" or (beside / "model_index.json").exists(), message, ModelError)
    return beside if (beside / "model_index.json").exists() else published_configs(source)


def name_configs(file: Path, folder: Path) -> None:
    """Use a folder's configs for a single file, in this process; `ModelError` if the file is in use with others."""
    require(
        (folder / "model_index.json").exists(),
        f"config {folder} is not a diffusers folder, because it has no model_index.json: give one that save_pretrained"
        " wrote, weights not needed",
        ModelError,
    )
    known = _named_configs.setdefault(file, folder)
    message = f"{file} is already open with the configs in {known}: open it with others in a process of its own"
    require(known == folder, message, ModelError)


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
    message = f"{folder} holds a {kind}; supported are {', '.join(PIPELINES)}"
    if kind not in PIPELINES:
        raise ModelError(f"{message}; {_text_entries(folder)}")
    return kind


def _text_entries(folder: Path) -> str:
    """Which text entries of known families were looked for in a folder's denoiser, and which are there."""
    looked_for = dict.fromkeys(families[name].text_entry for name in families)
    names: set[str] = set()
    for part in dict.fromkeys(families[name].denoiser for name in families):
        for path in sorted((folder / part).glob("*.safetensors")):
            with open_file(path) as file:
                names.update(f".{name}" for name in file.keys())
    stored = "".join(sorted(names))
    found = [entry for entry in looked_for if f".{entry.strip('.')}." in stored]
    listed = ", ".join(entry.strip(".") for entry in looked_for)
    there = ", ".join(entry.strip(".") for entry in found)
    return f"of the text entries looked for ({listed}) its denoiser has {there or 'none'}"


def family_of_folder(source: Path) -> FamilySpec:
    """The family of a diffusers folder, or of a single file's configs; `ModelError` unless it is supported."""
    folder = config_folder(source)
    return family_of_pipeline(pipeline_kind(folder), lambda part: read_config(folder / part / "config.json"))
