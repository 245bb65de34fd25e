"""A model's name as the user gives it, with the folder of its configs where a single file needs one.

Workers, ledgers and run.json know a model by its name alone, so both are one text there.
"""

from pathlib import Path

from ..core.errors import ModelError, require

_MARK = "?config="


def with_config(model: str, config: str | Path | None) -> str:
    """Join a single file and the folder of its configs; `ModelError` for a model of another kind."""
    if config is None:
        return model
    message = f"--config {config} goes with --model FILE.safetensors, not with {model or 'no model'}: leave it out"
    require(model.endswith(".safetensors"), message, ModelError)
    return f"{model}{_MARK}{config}"


def split_config(source: str) -> tuple[str, Path | None]:
    """Split a name into the model and the folder of its configs, if one was named."""
    model, _, config = source.partition(_MARK)
    return model, Path(config).expanduser() if config else None
