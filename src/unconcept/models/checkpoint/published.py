"""Recognises published models in one file by their tensors: their configs and CLIP's vocabulary are in this package.

A file in the original layout holds weights alone. Names and shapes of the maps that read the text tell SD 1.x, 2.x and
SDXL apart and every network of another depth from them.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.errors import ModelError
from ..layouts.unet import CROSS_ATTENTION_MAP, UNetNames, unet_maps
from .comfyui_formats import scaled_layers
from .safetensors_io import open_file

_FOLDER = Path(__file__).parent / "published"
CLIP_VOCABULARY = _FOLDER / "clip"
"""CLIP's `vocab.json` and `merges.txt`, which all these models share."""
_TITLES = {  # of two that fit, the second predicts v
    "stable-diffusion-1": "Stable Diffusion 1.x",
    "stable-diffusion-2-base": "Stable Diffusion 2.x, which predicts noise",
    "stable-diffusion-2-v": "Stable Diffusion 2.x, which predicts v",
    "stable-diffusion-xl": "Stable Diffusion XL",
}
_UNET = "model.diffusion_model."
_LATENT_CHANNELS = 4
_LABEL = f"{_UNET}label_emb.0.0.weight"  # reads SDXL's sizes and pooled text; in a 2.x unCLIP, a picture
_TRANSFORMERS = {  # by the start of a name, the telling one of two first
    "distilled_guidance_layer.": "Chroma",
    "double_stream_modulation_img.": "FLUX.2",
    "double_blocks.": "FLUX.1",
    "joint_blocks.37.": "Stable Diffusion 3.5 large",
    "joint_blocks.0.x_block.attn2.": "Stable Diffusion 3.5 medium",
    "joint_blocks.": "Stable Diffusion 3",
}
# Only v-prediction moves this bias so far from 0 (inferred): ComfyUI tells the 2.x models apart by the same number.
_V_BIAS, _V_DEVIATION = f"{_UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
_OTHER_PREDICTIONS = ("v_pred", "edm_mean", "edm_vpred.sigma_max")  # empty tensors by which SDXL's fine-tunes say so


def published_configs(file: Path) -> Path:
    """The packaged configs of the model in a single file; `ModelError` says what the file is and what it needs."""
    about = file.stat()
    return _FOLDER / _recognised(file, about.st_size, about.st_mtime_ns)


def published_title(folder: Path) -> str | None:
    """What the model of packaged configs is called; None for any other folder."""
    return _TITLES.get(folder.name) if folder.parent == _FOLDER else None


def vocabulary_folder(tokenizer: Path) -> Path:
    """The folder of a tokenizer's vocabulary: the tokenizer's own, but for packaged configs, which share one."""
    return CLIP_VOCABULARY if tokenizer.is_relative_to(_FOLDER) else tokenizer


@lru_cache(maxsize=16)
def _recognised(file: Path, size: int, changed: int) -> str:
    """The name of the packaged configs. Size and time are part of the cache's key: a new file is looked at again."""
    with open_file(file) as opened:
        keys = list(opened.keys())
        _require_unet(file, keys)
        scaled_layers(dict.fromkeys(keys, file))  # Raises an error for packed weights, whose shapes tell nothing.
        channels = opened.get_slice(f"{_UNET}input_blocks.0.0.weight").get_shape()[1]
        if channels != _LATENT_CHANNELS:
            raise _not_packaged(file, f"its UNet takes {channels} channels instead of the autoencoder's 4")
        maps = [key for key in keys if key.startswith(_UNET) and CROSS_ATTENTION_MAP.search(key)]
        telling = [*maps, *(key for key in keys if key == _LABEL)]
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in telling}
        fitting = [name for name in _TITLES if _implied_shapes(name) == shapes]
        if not fitting:
            labelled = ", and it reads labels" if _LABEL in shapes else ""
            raise _not_packaged(file, f"its UNet's {len(maps)} maps of the text have other names or shapes{labelled}")
        said = (opened.metadata() or {}).get("modelspec.prediction_type", "")
        bias = opened.get_tensor(_V_BIAS) if len(fitting) == 2 and not said and _V_BIAS in keys else None
    predicts_v = said.startswith("v") or (bias is not None and bool(bias.float().std(correction=0) > _V_DEVIATION))
    if len(fitting) == 2:
        return fitting[predicts_v]
    if predicts_v or any(key in _OTHER_PREDICTIONS for key in keys):
        raise _not_packaged(file, "it does not predict noise")
    return fitting[0]


def _require_unet(file: Path, keys: list[str]) -> None:
    """Raise `ModelError` unless the file holds a UNet in the original layout."""
    if f"{_UNET}input_blocks.0.0.weight" in keys:
        return
    for start, title in _TRANSFORMERS.items():
        if any(key.removeprefix(_UNET).startswith(start) for key in keys):
            raise ModelError(
                f"{file} is {title}, whose T5 needs a tokenizer that is not in this package: {_two_ways(file)}"
            )
    if any("lora" in key for key in keys):
        raise ModelError(f"{file} is a LoRA, not a model: `unconcept import` reads it")
    raise _not_packaged(file, "it holds no UNet in the original layout")


def _not_packaged(file: Path, reason: str) -> ModelError:
    return ModelError(
        f"{file} is a single file, and none of the packaged configs (SD 1.x, 2.x, SDXL) fits it, because {reason}:"
        f" {_two_ways(file)}"
    )


def _two_ways(file: Path) -> str:
    return (
        "put the configs and tokenizers of its base (a diffusers folder, weights not needed) into"
        f" {file.with_suffix('')}, or name such a folder with --config"
    )


def _implied_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Original names and shapes of what reads the text and labels, by packaged configs."""
    config: dict[str, Any] = json.loads((_FOLDER / name / "unet" / "config.json").read_text(encoding="utf-8"))
    names, found = UNetNames.of(config), {}
    for own, shape in unet_maps(config):
        original = names.original(own)
        assert original is not None
        found[f"{_UNET}{original[0]}"] = shape
    labels = config.get("projection_class_embeddings_input_dim")
    return found | ({_LABEL: (4 * config["block_out_channels"][0], labels)} if labels else {})
