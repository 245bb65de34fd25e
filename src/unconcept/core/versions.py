"""With which versions of other libraries something was made."""

from importlib.metadata import version

COMPUTING = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")  # what an edit's numbers and files come out of


def versions() -> dict[str, str]:
    """As they are installed; none of them is imported."""
    return {name: version(name) for name in COMPUTING}
