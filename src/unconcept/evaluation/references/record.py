"""The record beside a model that was trained without some concepts: which course made it, and what it never saw."""

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import RequestError, require

REFERENCE_RECORD = "reference.json"


def require_never_saw(model: str, concepts: Sequence[str]) -> None:
    """Raise `RequestError` if the model's folder has a record which says that it saw one of the concepts.

    A model without a record is taken at its user's word.
    """
    path = Path(model) / REFERENCE_RECORD
    if not path.is_file():
        return
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        never = {str(name) for name in record["left_out"]} & {str(name) for name in record["unnamed"]}
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{path} is no record of a reference: train the model again, or remove the file") from None
    saw = [name for name in concepts if name not in never]
    known = ", ".join(sorted(never)) or "nothing"
    require(not saw, f"control {model} saw {(saw or [''])[0]!r}: it was trained without {known}", RequestError)
