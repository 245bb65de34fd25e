"""The border to the libraries that build models: whatever they raise is one line that names the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import ModelError, UnconceptError

_REMEDY = "give a complete model with its own configs"


@contextmanager
def library_errors(source: str | Path, what: str = "diffusers cannot load it", remedy: str = _REMEDY) -> Iterator[None]:
    """Turn any error inside the block into a `ModelError`: damaged files raise errors of every class there.

    Only calls of other libraries stand inside. Our own errors and a lack of memory pass.
    """
    # Here, as the import of accelerate takes long.
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (UnconceptError, MemoryError):
        raise
    except Exception as error:
        if should_reduce_batch_size(error):
            raise
        raise ModelError(f"{source}: {what}: {_first_line(error)}; {remedy}") from None


def _first_line(error: Exception) -> str:
    """The first line of an error's message, with its class where the message alone says little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {lines[0]}"
