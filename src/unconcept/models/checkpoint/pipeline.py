"""A pipeline built of a diffusers folder or single file, by diffusers itself and of what is on the disk alone."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import ModelError, OutputError, require
from .config import config_folder, family_of_folder, read_config
from .locations import companion_folder
from .safetensors_io import is_finite
from .weight_files import variant_of

Pipeline = Any  # a diffusers pipeline: its classes carry no types for their components


def _check_temporary() -> None:
    """Torch's compiler, which diffusers brings along, wants a folder for temporary files as soon as it is there."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise OutputError(
            "no folder for temporary files can be written to, and diffusers cannot be loaded without: set TMPDIR to one"
            " that can"
        ) from None


def build_pipeline(source: Path, dtype: torch.dtype) -> Pipeline:
    """`ModelError` says why diffusers cannot."""
    _check_temporary()
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = config_folder(source)
    told = read_config(folder / "model_index.json")
    kind = str(told.get("_class_name"))
    absent: dict[str, Any] = (
        {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in told else {}
    )
    for encoder in family_of_folder(folder).encoders:
        if encoder.is_optional and not (folder / encoder.part).exists():
            absent |= {encoder.part: None, encoder.tokenizer: None}
    try:
        if source != folder:
            absent.pop("requires_safety_checker", None)  # Told to the pipeline by the config alone.
            given = {part: _loaded(folder, part, told.get(part)).to(dtype) for part in companion_folder(source)}
            pipeline = getattr(diffusers, kind).from_single_file(
                str(source), config=str(folder), local_files_only=True, dtype=dtype, **absent, **given
            )
        else:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                variant=variant_of(folder) or None,
                **absent,
            )
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: diffusers cannot load it: {str(error).splitlines()[0]}") from None
    _check_components(pipeline, source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_components(pipeline: Pipeline, source: Path) -> None:
    """Puts each network into evaluation; `ModelError` where a weight is no number."""
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.eval()  # Of a single file diffusers leaves T5 in training, where it drops states at random.
            broken = [f"{name}.{inner}" for inner, weight in part.named_parameters() if not is_finite(weight.detach())]
            require(
                not broken,
                f"{source}: {broken[0] if broken else ''} holds NaN or infinity; the checkpoint is damaged",
                ModelError,
            )


def _loaded(folder: Path, part: str, told: object) -> nn.Module:
    """A part that stands beside a single file."""
    import diffusers
    import transformers

    library, kind = told if isinstance(told, list) and len(told) == 2 else (None, None)
    known = {"diffusers": diffusers, "transformers": transformers}
    message = f"{folder}: model_index.json says {part} is {told}; give a complete diffusers folder"
    require(library in known and hasattr(known[str(library)], str(kind)), message, ModelError)
    module: nn.Module = getattr(known[str(library)], str(kind)).from_pretrained(
        folder / part, local_files_only=True, use_safetensors=True
    )
    return module
