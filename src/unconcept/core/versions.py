"""With which versions of other libraries something was made."""

from importlib.metadata import version

# What an edit's numbers and files come out of.
_COMPUTING_LIBRARIES = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")


def library_versions() -> dict[str, str]:
    """As they are installed; none of them is imported."""
    return {name: version(name) for name in _COMPUTING_LIBRARIES}
