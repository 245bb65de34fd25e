"""Loads a model whose files hold quantised weights through diffusers, with the library of their format.

A folder says in the config of a part how it is quantised (bitsandbytes, torchao, ...). A GGUF file holds a denoiser;
its configs, text encoders and autoencoder are in a diffusers folder.
"""

from pathlib import Path
from typing import Any

import torch

from ...core.errors import ModelError, require
from .config import config_folder, family_of_folder, read_config
from .library_errors import library_errors
from .networks import part_class
from .pipeline import Pipeline

GGUF_SUFFIX = ".gguf"


def quantised_parts(source: Path) -> dict[str, str]:
    """The parts of a model that are quantised, with the name of the format."""
    if source.suffix == GGUF_SUFFIX:
        return {family_of_folder(source).denoiser: "gguf"}
    folder, found = config_folder(source), {}
    for path in sorted(folder.glob("*/config.json")):
        told = read_config(path).get("quantization_config")
        if told:
            found[path.parent.name] = str(told.get("quant_method")) if isinstance(told, dict) else str(told)
    return found


def build_quantised(source: Path, dtype: torch.dtype, device: torch.device) -> Pipeline:
    """Build the pipeline; what is not quantised is in `dtype`. `ModelError` says in one line what is missing."""
    import diffusers

    folder = config_folder(source)
    given: dict[str, Any] = {}
    told = read_config(folder / "model_index.json")
    formats = ", ".join(sorted(set(quantised_parts(source).values())))
    with library_errors(
        source, f"diffusers cannot load its weights ({formats}), which needs the library of the format"
    ):
        if source.suffix == GGUF_SUFFIX:
            part = family_of_folder(source).denoiser
            kind = part_class(folder, part, told.get(part))
            message = f"{source}: a {kind.__name__} is not read from GGUF by diffusers: give plain weights"
            require(hasattr(kind, "from_single_file"), message, ModelError)
            how = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
            given[part] = kind.from_single_file(
                str(source), config=str(folder), subfolder=part, quantization_config=how, dtype=dtype
            )
        if "safety_checker" in told:
            given |= {"safety_checker": None, "requires_safety_checker": False}
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, **given
        )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline if device.type == "cpu" else pipeline.to(device)
