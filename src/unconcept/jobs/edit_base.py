"""Finds the model that edits were made for, for commands that are given edits and no model."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import EditError, ModelError, OutputError, require
from ..core.escapes import file_name_text
from ..core.hashing import hash_tensors
from ..core.output_folder import RUN_FILE, STORE_REMEDY, default_store, write_atomically
from ..core.regular_files import require_regular_file
from ..edits import Edit, open_edit, origin_of
from ..models import open_model
from ..models.checkpoint.hub import is_hub_id
from ..models.loading import absolute_source
from ..worlds.registry import DEFAULT_MODEL, embedded_world, outdated_note

_BENCH_FOLDER = "edits"  # in which a bench keeps its edits, below its own run.json
_BASES_FOLDER = "bases"  # of the store: where on this machine the bases of published edits are


def base_of_edits(edits: Sequence[Path], model: str | None = None) -> str:
    """The named model, else the one that all the edits were made for; without edits the embedded one.

    An embedded model and a Hub id are named in an edit's header. A path is not, because edits are published: it is in
    the run.json beside the edit or, of an edit made to be published, in the store of this machine (`remember_base`). It
    counts only if the weights there are the edit's. `EditError` if nothing is known.
    """
    if model is not None:
        return model
    found = {str(path): _base_of(path) for path in edits}
    names = list(dict.fromkeys(found.values()))
    told = ", ".join(f"{path} is for {name}" for path, name in found.items())
    require(len(names) < 2, f"the edits were made for different models: {told}; give edits of one model", EditError)
    return names[0] if names else DEFAULT_MODEL


def _base_of(path: Path) -> str:
    edit = open_edit(path)
    made = origin_of(edit)
    if is_hub_id(made.base):  # It may have to be fetched first; the edit is checked against it when it is applied.
        return made.base
    named = [made.base] if embedded_world(made.base) is not None else []
    folder = path.resolve().parent
    run = (folder.parent if folder.name == _BENCH_FOLDER else folder) / RUN_FILE
    for model in (*_recorded(run), *_recorded(_remembered(made.base_hash)), *named):
        if _is_base(model, edit):
            world = embedded_world(model)
            return model if world is None else world.name
    outdated = outdated_note(made.base)  # A user's folder may have the name of an embedded model.
    remedy = f"; if that was the embedded model: {outdated}, so make the edit anew" if outdated else ""
    raise EditError(f"edit {path}: give --model; its base is {made.base}, hash {made.base_hash[:12]}{remedy}")


def _recorded(record: Path) -> list[str]:
    """The base in the run.json of the run that made an edit; empty if there is none or it names none."""
    require_regular_file(record, EditError)
    try:
        base = json.loads(record.read_text(encoding="utf-8"))["base"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [base] if isinstance(base, str) else []


def _remembered(base_hash: str) -> Path:
    return default_store() / _BASES_FOLDER / f"{file_name_text(base_hash)}.json"


def _is_base(model: str, edit: Edit) -> bool:
    """Whether a model has the weights that an edit was made for."""
    try:
        own = open_model(model, "cpu", "float32").reference(edit.bound_names)
        return hash_tensors(own) == origin_of(edit).base_hash
    except ModelError:
        return False


def record_base(folder: Path, model: str) -> None:
    """Write a run.json that names only the base of the edits beside it."""
    (folder / RUN_FILE).write_text(json.dumps({"base": model}), encoding="utf-8")


def remember_base(edit: Edit, model: str) -> None:
    """Note in the store where the base of an edit is that is written without a run.json beside it.

    Where the store cannot be written, commands that are given the edit ask for --model.
    """
    if not edit.bound_names:
        return  # An edit of nothing fits every model.
    with suppress(OutputError):
        place = _remembered(origin_of(edit).base_hash)
        write_atomically(place, json.dumps({"base": absolute_source(model)}).encode(), STORE_REMEDY)
