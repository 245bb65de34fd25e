"""Recognises published models in one file by their tensors: configs and vocabularies are in this package.

A file in the original layout holds weights alone. Names and shapes of the tensors that read the text, and of a
transformer's attentions, tell the models apart and every network of another depth from them.

Sources of the configs: sizes follow from the tensors of the published files. SD 3's and 3.5's transformers and
autoencoder are those of diffusers' `convert_sd3_to_diffusers.py`, their text encoders SDXL's two with projections and
google/t5-v1_1-xxl, their shift of 3 is in the published scheduler configs and in ComfyUI.
"""

import json
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.errors import ModelError
from ..family import EncoderKind
from ..layouts.telling import LABEL_EMBEDDING, SD3_TRANSFORMERS, UNETS, Shapes, TellingTensors
from .comfyui_formats import scaled_layers
from .safetensors_io import open_file

_FOLDER = Path(__file__).parent / "published"
VOCABULARIES: dict[EncoderKind, Path] = {"clip": _FOLDER / "clip", "t5": _FOLDER / "t5"}
"""The vocabularies that all these models share: CLIP's `vocab.json` and `merges.txt`, T5's `tokenizer.json`."""
_TITLES = {
    "stable-diffusion-1": "Stable Diffusion 1.x",
    "stable-diffusion-2-base": "Stable Diffusion 2.x, which predicts noise",
    "stable-diffusion-2-v": "Stable Diffusion 2.x, which predicts v",
    "stable-diffusion-xl": "Stable Diffusion XL",
    "stable-diffusion-3": "Stable Diffusion 3",
    "stable-diffusion-3.5-medium": "Stable Diffusion 3.5 medium",
    "stable-diffusion-3.5-large": "Stable Diffusion 3.5 large",
}
_NETWORKS = {  # by the names of their packaged configs; of two that fit, the second predicts v
    ("stable-diffusion-1", "stable-diffusion-2-base", "stable-diffusion-2-v", "stable-diffusion-xl"): UNETS,
    ("stable-diffusion-3", "stable-diffusion-3.5-medium", "stable-diffusion-3.5-large"): SD3_TRANSFORMERS,
}
_PREFIX = "model.diffusion_model."
_OTHERS = {  # transformers without packaged configs, by the start of a name, the telling one of two first
    "distilled_guidance_layer.": "Chroma",
    "double_stream_modulation_img.": "FLUX.2",
    "double_blocks.": "FLUX.1",
}
# Only v-prediction moves this bias so far from 0 (inferred): ComfyUI tells the 2.x models apart by the same number.
_V_BIAS, _V_DEVIATION = f"{_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
_OTHER_PREDICTIONS = ("v_pred", "edm_mean", "edm_vpred.sigma_max")  # empty tensors by which fine-tunes say so


def published_configs(file: Path) -> Path:
    """The packaged configs of the model in a single file; `ModelError` says what the file is and what it needs."""
    about = file.stat()
    return _FOLDER / _recognised(file, about.st_size, about.st_mtime_ns)


def published_title(folder: Path) -> str | None:
    """What the model of packaged configs is called; None for any other folder."""
    return _TITLES.get(folder.name) if folder.parent == _FOLDER else None


def vocabulary_folder(tokenizer: Path, kind: EncoderKind) -> Path:
    """The folder of a tokenizer's vocabulary: the tokenizer's own, but for packaged configs, which share one."""
    return VOCABULARIES[kind] if tokenizer.is_relative_to(_FOLDER) else tokenizer


@lru_cache(maxsize=16)
def _recognised(file: Path, size: int, changed: int) -> str:
    """The name of the packaged configs. Size and time are part of the cache's key: a new file is looked at again."""
    with open_file(file) as opened:
        keys = set(opened.keys())
        models, network, prefix = _network(file, keys)
        scaled_layers(dict.fromkeys(keys, file))  # Raises an error for packed weights, whose shapes tell nothing.
        telling = [key for key in keys if key.startswith(prefix) and network.pattern.search(key.removeprefix(prefix))]
        shapes = {key.removeprefix(prefix): tuple(opened.get_slice(key).get_shape()) for key in telling}
        sides = opened.get_slice(f"{prefix}{network.latents}").get_shape()
        fitting = _fitting(file, models, network, sides[1] if len(sides) == 4 else 0, shapes)
        said = (opened.metadata() or {}).get("modelspec.prediction_type", "")
        bias = opened.get_tensor(_V_BIAS) if len(fitting) == 2 and not said and _V_BIAS in keys else None
    predicts_v = said.startswith("v") or (bias is not None and bool(bias.float().std(correction=0) > _V_DEVIATION))
    if len(fitting) == 2:
        return fitting[predicts_v]
    if predicts_v or any(key in _OTHER_PREDICTIONS for key in keys):
        raise _not_packaged(file, f"it does not predict {network.prediction}")
    return fitting[0]


def _network(file: Path, keys: Collection[str]) -> tuple[tuple[str, ...], TellingTensors, str]:
    """The packaged models of a file's kind of network, that kind, and the prefix of its names in the file.

    `ModelError` unless the file holds such a network in the original layout.
    """
    for models, network in _NETWORKS.items():
        for prefix in (_PREFIX, "") if network.folder == "transformer" else (_PREFIX,):
            if {f"{prefix}{network.marker}", f"{prefix}{network.latents}"} <= set(keys):
                return models, network, prefix
    for start, title in _OTHERS.items():
        if any(key.removeprefix(_PREFIX).startswith(start) for key in keys):
            raise ModelError(f"{file} is {title}, whose configs are not in this package: {_two_ways(file)}")
    if any("lora" in key for key in keys):
        raise ModelError(f"{file} is a LoRA, not a model: `unconcept import` reads it")
    raise _not_packaged(file, "it holds no UNet in the original layout and no transformer of SD 3")


def _fitting(file: Path, models: tuple[str, ...], network: TellingTensors, channels: int, shapes: Shapes) -> list[str]:
    """The packaged configs that imply these tensors; `ModelError` if none does."""
    configs = {name: _config(name, network.folder) for name in models}
    taken = sorted({config["in_channels"] for config in configs.values()})
    if channels not in taken:
        others = " or ".join(map(str, taken))
        raise _not_packaged(
            file, f"its {network.network} takes {channels} channels instead of the autoencoder's {others}"
        )
    fitting = [name for name, config in configs.items() if network.shapes(config) == shapes]
    if not fitting:
        labelled = LABEL_EMBEDDING in shapes
        reason = f"its {network.network}'s {len(shapes) - labelled} {network.compared} have other names or shapes"
        raise _not_packaged(file, f"{reason}{', and it reads labels' * labelled}")
    return fitting


def _config(name: str, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_FOLDER / name / part / "config.json").read_text(encoding="utf-8"))
    return found


def _not_packaged(file: Path, reason: str) -> ModelError:
    return ModelError(
        f"{file} is a single file, and none of the packaged configs (SD 1.x, 2.x, SDXL, SD 3, 3.5) fits it, because"
        f" {reason}: {_two_ways(file)}"
    )


def _two_ways(file: Path) -> str:
    return (
        "put the configs and tokenizers of its base (a diffusers folder, weights not needed) into"
        f" {file.with_suffix('')}, or name such a folder with --config"
    )
