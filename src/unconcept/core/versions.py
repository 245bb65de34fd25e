"""Versions of the installed libraries, recorded with results."""

from importlib.metadata import version

# Libraries that an edit's numbers and files depend on.
_COMPUTING_LIBRARIES = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")


def library_versions() -> dict[str, str]:
    """The installed version of each library that edits depend on; nothing is imported."""
    return {name: version(name) for name in _COMPUTING_LIBRARIES}
