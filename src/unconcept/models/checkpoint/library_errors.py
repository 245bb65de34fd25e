"""The border to the libraries that build models: whatever they raise is one line that names the model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from ...core.errors import ModelError, UnconceptError

_REMEDY = "give a complete model with its own configs"


_LIBRARIES = (
    "accelerate",
    "diffusers",
    "huggingface_hub",
    "numpy",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
_SAMPLER = ("unconcept.models.diffusion.", "unconcept.models.views.", "unconcept.models.model_view")


@contextmanager
def library_errors(
    source: str | Path,
    what: str = "diffusers cannot load it",
    passes: Callable[[Exception], bool] = lambda error: False,
) -> Iterator[None]:
    """Turn any error inside the block into a `ModelError`: damaged files raise errors of every class there.

    Only calls of other libraries stand inside. Our own errors and a lack of memory pass, and what `passes` names.
    """
    # Here, as the import of accelerate takes long.
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        with warnings.catch_warnings():  # diffusers warns of its own old name inside its Chroma.
            warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
            yield
    except (UnconceptError, MemoryError):
        raise
    except Exception as error:
        if should_reduce_batch_size(error) or passes(error):
            raise
        raise ModelError(f"{source}: {what}: {_first_line(error)}; {_REMEDY}") from None


@contextmanager
def drawing_errors(source: str | Path) -> Iterator[None]:
    """The same around the sampler, where a config may turn out to be wrong.

    An error of any other code passes: of a hook, a callback, an edit or a plug-in.
    """
    with library_errors(source, "diffusers cannot draw with it", passes=_is_of_other_code):
        yield


def _is_of_other_code(error: Exception) -> bool:
    """Whether an error is not a library's, called by the sampler, by the traceback below the block's own frame."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    inner = [name for name in names if name != __name__ and not name.startswith(_SAMPLER)]
    is_last_ours = bool(names) and names[-1].startswith(_SAMPLER)
    return is_last_ours or any(name.partition(".")[0] not in _LIBRARIES for name in inner)


def _first_line(error: Exception) -> str:
    """The first line of an error's message, with its class where the message alone says little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {lines[0]}"
