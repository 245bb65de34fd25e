"""Writes a ledger's state to a folder: an edit file, a card and, on demand, a whole checkpoint."""

from pathlib import Path
from typing import Any

import torch

from ..core.errors import LedgerChanged, LedgerError, OutputError, require
from ..core.escapes import json_text
from ..core.output_folder import atomic_folder
from ..edits.export.bake import bake
from ..models import ModelView, find_model
from ..models.checkpoint.model_card import base_id, read_licence
from .conflicts import find_conflicts
from .fold import LedgerState, fold_requests
from .ledger import EntryNote, Ledger, request_set_hash
from .storage.heads import WrittenHead, current_head
from .verify import numeric_environment

EDIT_FILE, CARD_FILE, MODEL_FOLDER = "edit.safetensors", "card.json", "model"


def materialize_ledger(
    ledger: Ledger, model: ModelView, out: Path, checkpoint: bool, overwrite: bool, note: EntryNote
) -> dict[str, Any]:
    """Write `edit.safetensors` and `card.json` to `out`, and with `checkpoint` a diffusers folder `model`.

    Returns the card.
    """
    ids = [one.id for one in ledger.request_states.active]
    identity = release_identity(ledger, checkpoint)
    head: WrittenHead | None = None
    try:
        with atomic_folder(out, identity, overwrite) as folder:
            state = fold_requests(ledger, model)
            require_checkpoint(state, checkpoint)
            state.edit.save(folder / EDIT_FILE)
            for name, running in state.runtime_edits.items():
                running.save(folder / f"{name}.safetensors")
            if checkpoint:
                bake(state.edit, find_model(model.name), folder / MODEL_FOLDER)
            head = _recorded(ledger, state, ids, note)
            card = _card(ledger, model, state, ids, head)
            (folder / CARD_FILE).write_text(json_text(card, indent=2) + "\n", encoding="utf-8")
    except OutputError as error:
        known = f"{error}; entry {head.entries - 1 if head else 0} records the state, but {out} is not written"
        require(head is None, known, OutputError)
        raise
    return card


def release_identity(ledger: Ledger, checkpoint: bool) -> dict[str, object]:
    """What identifies the output: an interrupted run with the same identity continues."""
    ids = [one.id for one in ledger.request_states.active]
    return {"ledger": ledger.first["at"], "requests": request_set_hash(ids), "checkpoint": checkpoint}


def require_checkpoint(state: LedgerState, checkpoint: bool) -> None:
    """Raise `LedgerError` if a checkpoint is wanted that cannot hold the state."""
    message = "a checkpoint cannot hold the ledger's edits that run beside the model: leave out --checkpoint"
    require(not (checkpoint and state.runtime_edits), message, LedgerError)


def _recorded(ledger: Ledger, state: LedgerState, ids: list[str], note: EntryNote) -> WrittenHead:
    """Store trained edits and append an entry with the hash of the state. Returns the head after it."""
    trained = {}
    for method, edit in state.trained_edits.items():
        own = [one.id for one in ledger.request_states.active if one.content.method == method]
        trained[method] = {"requests": request_set_hash(own), "edit": ledger.artifacts.put_edit(edit)}
    with ledger.write_lock():
        same = [one.id for one in ledger.request_states.active] == ids
        require(same, f"ledger {ledger.folder} changed while its state was built: run the command again", LedgerChanged)
        ledger.artifacts.require_all([str(one["edit"]) for one in trained.values()])
        ledger.append(
            "materialize",
            note,
            requests=request_set_hash(ids),
            state=state.hash,
            libraries=numeric_environment(),
            trained=trained,
        )
        return current_head(ledger.entry_log)


def _card(ledger: Ledger, model: ModelView, state: LedgerState, ids: list[str], head: WrittenHead) -> dict[str, Any]:
    """The content of `card.json`: what is in force and since when, and hashes to verify the files.

    It ships, so it names no requester, reason or path of a machine: only how many ask for a request.
    """
    requests = [one.public_data() for one in ledger.request_states.active]
    return {
        "ledger": {
            "rule": ledger.policy.rule,
            "policy": ledger.policy.data(),
            "begun": ledger.first["at"],
            "head": head.hash,
            "entries": head.entries,
        },
        "base": {
            "model": base_id(model.name),
            "family": model.family,
            "licence": read_licence(model.checkpoint.source),
            **ledger.first["base"],
        },
        "edit": {
            "hash": state.edit.hash,
            "parameters": state.edit.parameters,
            "kind": type(state.edit).__name__,
            "dtype": str(torch.float32),
        },
        "beside": {f"{name}.safetensors": running.hash for name, running in state.runtime_edits.items()},
        "in_force": ids,
        "requests": requests,
        "conflicts": find_conflicts(ledger),
        "libraries": numeric_environment(),
        "written": ledger.entry_log.bodies[-1]["at"],
        "limits": (
            "Erasing makes a concept hard to generate; it does not prove that the weights hold no trace of it."
            " `unconcept ledger audit` measures how easily it comes back."
        ),
    }
