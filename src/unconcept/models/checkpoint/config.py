"""What the configs of a diffusers folder say of a model: the class of its pipeline, and its family."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import ModelError, require
from ..family import Family

# Those with a UNet.
UNET_PIPELINES = {
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
}

# And those with a transformer.
TRANSFORMER_PIPELINES: dict[str, Family] = {"StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux"}


def config_folder(source: Path) -> Path:
    """A diffusers folder itself; of a single file, the folder of its name beside it, which holds configs and tokenizers
    and needs no weights.
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
    """A config of a diffusers folder."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}; give a complete diffusers folder") from None
    require(isinstance(found, dict), f"{path} holds no table of settings; give a complete diffusers folder", ModelError)
    return found


def pipeline_kind(folder: Path, known: Collection[str]) -> str:
    """The class of the pipeline in a diffusers folder; `ModelError` unless it is one of the known."""
    kind = str(read_config(folder / "model_index.json").get("_class_name"))
    require(kind in known, f"{folder} holds a {kind}; supported are {', '.join(known)}", ModelError)
    return kind


def unet_family(kind: str, unet: Mapping[str, Any], text: Mapping[str, Any]) -> Family:
    """Of a pipeline with a UNet: OpenCLIP's text tower, with its plain GELU, tells 2.x from 1.x."""
    if kind == "StableDiffusionXLPipeline":
        return "sdxl"
    return "sd2" if text.get("hidden_act") == "gelu" or unet["cross_attention_dim"] == 1024 else "sd1"
