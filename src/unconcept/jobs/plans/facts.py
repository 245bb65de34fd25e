"""Facts and sizes that several plans tell."""

from collections.abc import Sequence

from ...edits import Edit
from ...models import ModelView

_HEADER_BYTES = 2000  # of an edit file, about
PAGE_BYTES = 60_000  # of a report without its pictures, about


def edit_bytes(edit: Edit | None) -> int | None:
    """Size of an edit's file, about."""
    return None if edit is None else _HEADER_BYTES + sum(tensor.numel() * 4 for tensor in edit.tensors().values())


def model_facts(model: ModelView) -> dict[str, str]:
    """The model, its device and its data type."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {"model": f"{model.name} ({model.spec.title}), {model.device}, {dtype}"}


def listed(texts: Sequence[str]) -> str:
    """The first five texts, and how many more there are."""
    shown = ", ".join(texts[:5]) or "nothing"
    return shown if len(texts) <= 5 else f"{shown} and {len(texts) - 5} more"
