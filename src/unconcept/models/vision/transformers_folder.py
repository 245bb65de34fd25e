"""Networks of transformers out of a folder on disk: whole ones only, safetensors only, no code of the folder's own."""

import json
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ModelError, require
from ...core.regular_files import require_own_files
from ..checkpoint.library_errors import library_errors
from ..checkpoint.weight_files import weight_files


def load_network(
    kind: str, folder: Path, what: str, device: torch.device, dtype: torch.dtype | None = torch.float32
) -> Any:
    """Load a network of a class of transformers, by the class's name, frozen; `ModelError` for any other folder.

    Weights that the files lack are refused: transformers would draw them at random. Without a dtype it is the files'.
    """
    import transformers  # The import takes seconds.
    from transformers.utils import logging

    require(folder.is_dir(), f"{folder}: it is no folder; give that of the {what}", ModelError)
    require_own_files(folder, ModelError)
    weight_files(folder)  # Raises an error on pickles, and on a folder without weights.
    logging.disable_progress_bar()
    with library_errors(folder, f"it is no {what} that transformers opens"):
        network, found = getattr(transformers, kind).from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto" if dtype is None else dtype,
        )
    lacking = sorted(found["missing_keys"])
    message = f"{folder} is no whole {what}: its weights lack {', '.join(lacking[:1])}; give one that was trained"
    require(not lacking, message, ModelError)
    return network.to(device).eval().requires_grad_(False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a table out of a folder's file; `ModelError` for any other file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}; give a complete folder") from None
    require(isinstance(config, dict), f"{path} holds no table; give a complete folder", ModelError)
    table: dict[str, Any] = config
    return table
