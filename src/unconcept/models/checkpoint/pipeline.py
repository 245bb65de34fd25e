"""Builds a diffusers pipeline from a diffusers folder or single file, with local files only."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import ModelError, OutputError, require
from .config import config_folder, family_of_folder, read_config
from .library_errors import library_errors
from .locations import companions, has_part, tensor_locations
from .networks import build_network, own_networks, part_class
from .published import VOCABULARIES, published_title
from .safetensors_io import is_finite
from .weight_files import variant_of

Pipeline = Any  # a diffusers pipeline: its classes have no types for their components


def _check_temporary() -> None:
    """Check that there is a temporary folder: torch's compiler, which diffusers imports, needs one on import."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise OutputError(
            "no temporary folder can be written to, and diffusers needs one to load: set TMPDIR to a writable folder"
        ) from None


def build_pipeline(source: Path, dtype: torch.dtype) -> Pipeline:
    """Build the pipeline; `ModelError` gives the reason if diffusers cannot load it."""
    _check_temporary()
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = config_folder(source)
    told = read_config(folder / "model_index.json")
    for path in sorted(folder.glob("*/*config.json")):
        read_config(path)  # diffusers takes what is no table for a Hub id, and asks for it.
    given = _absent_parts(source, told) | own_networks(source, told, dtype)
    kind, denoiser = getattr(diffusers, str(told.get("_class_name"))), family_of_folder(folder).denoiser
    if source != folder and denoiser not in given and not hasattr(kind, "from_single_file"):
        places = tensor_locations(source, denoiser)
        given[denoiser] = build_network(folder, denoiser, told.get(denoiser), places).to(dtype)
    with library_errors(source):
        if source != folder:
            given = packaged_tokenizers(folder) | given
        if source != folder and denoiser not in given:
            given.pop("requires_safety_checker", None)  # from_single_file accepts it only from the config.
            for part in companions(source):
                if part not in given:
                    given[part] = _loaded(folder, part, told.get(part)).to(dtype)
            pipeline = kind.from_single_file(
                str(source), config=str(folder), local_files_only=True, dtype=dtype, **given
            )
        else:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                variant=variant_of(folder) or None,
                **given,
            )
    _check_components(pipeline, source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _absent_parts(source: Path, told: Mapping[str, object]) -> dict[str, Any]:
    """Arguments that tell diffusers which parts not to load: the safety checker, and encoders that are not there."""
    absent: dict[str, Any] = (
        {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in told else {}
    )
    for encoder in family_of_folder(source).encoders:
        if encoder.is_optional and not has_part(source, encoder.part):
            absent |= {encoder.part: None, encoder.tokenizer: None}
    return absent


def _check_components(pipeline: Pipeline, source: Path) -> None:
    """Put each network into evaluation mode; `ModelError` if a weight is missing, NaN or infinite."""
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.eval()  # diffusers leaves the T5 of a single file in training mode, with dropout.
            missing = [f"{name}.{inner}" for inner, weight in part.named_parameters() if weight.is_meta]
            message = f"{source} lacks {missing[0] if missing else ''}, which its config implies: give a complete model"
            require(not missing, message, ModelError)
            broken = [f"{name}.{inner}" for inner, weight in part.named_parameters() if not is_finite(weight.detach())]
            require(
                not broken,
                f"{source}: {broken[0] if broken else ''} contains NaN or infinity; the checkpoint is damaged: download"
                " it again",
                ModelError,
            )


def _loaded(folder: Path, part: str, told: object) -> nn.Module:
    """Load a part from the config folder of a single file."""
    module: nn.Module = part_class(folder, part, told).from_pretrained(
        folder / part, local_files_only=True, use_safetensors=True
    )
    return module


def packaged_tokenizers(folder: Path) -> dict[str, Any]:
    """The tokenizers of packaged configs, which share their vocabularies; empty for any other folder."""
    if published_title(folder) is None:
        return {}
    from transformers import CLIPTokenizer, T5Tokenizer

    clip, t5 = VOCABULARIES["clip"], VOCABULARIES["t5"]
    found: dict[str, Any] = {}
    for encoder in family_of_folder(folder).encoders:
        config = read_config(folder / encoder.tokenizer / "tokenizer_config.json")
        options = {name: value for name, value in config.items() if name != "tokenizer_class"}
        found[encoder.tokenizer] = (
            T5Tokenizer.from_pretrained(str(t5), local_files_only=True, **options)
            if encoder.kind == "t5"
            else CLIPTokenizer(vocab=str(clip / "vocab.json"), merges=str(clip / "merges.txt"), **options)
        )
    return found
