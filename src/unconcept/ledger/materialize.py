"""Write the state out: an edit file that says of which requests it is, a card, and on demand a whole checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import LedgerError, require
from ..core.output_folder import building
from ..edits.export.bake import bake
from ..models import ModelView, find_model
from ..models.checkpoint.fingerprint import licence
from .conflicts import conflicts
from .fold import State, fold
from .ledger import Ledger, Note, set_hash
from .verify import libraries

EDIT, CARD, MODEL = "edit.safetensors", "card.json", "model"


def materialize(ledger: Ledger, model: ModelView, out: Path, checkpoint: bool, overwrite: bool, note: Note) -> dict[str, Any]:
    """OUT with `edit.safetensors` and `card.json`; with `checkpoint` a diffusers folder `model` besides. The card."""
    ids = [one.id for one in ledger.standings.active]
    key = set_hash(ids)
    with building(out, {"ledger": ledger.first["at"], "requests": key, "checkpoint": checkpoint}, overwrite) as folder:
        state = fold(ledger, model)
        message = "the ledger has edits that run beside the model, which no checkpoint holds: leave out --checkpoint"
        require(not (checkpoint and state.beside), message, LedgerError)
        state.edit.save(folder / EDIT)
        for name, running in state.beside.items():
            running.save(folder / f"{name}.safetensors")
        if checkpoint:
            bake(state.edit, find_model(model.name), folder / MODEL)
        head = _recorded(ledger, state, ids, key, note)
        card = _card(ledger, model, state, ids, head)
        (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def _recorded(ledger: Ledger, state: State, ids: list[str], key: str, note: Note) -> str:
    """Write down which bytes this set came to, and keep what was trained for it; the hash of the last entry."""
    ways = {one.id: one.asked.method for one in ledger.standings.active}
    trained: Mapping[str, Any] = {}
    if state.trained:
        trained = {
            method: {"requests": set_hash([id_ for id_ in ids if ways[id_] == method]), "edit": ledger.artifacts.put_edit(_with_origin(edit, state))}
            for method, edit in state.trained.items()
        }
    with ledger.writing():
        same = [one.id for one in ledger.standings.active] == ids
        require(same, f"ledger {ledger.folder} was changed while its state was built: do it again", LedgerError)
        ledger.append("materialize", note, requests=key, state=state.hash, libraries=libraries(), trained=trained)
    return ledger.chain.last


def _with_origin(edit: Any, state: State) -> Any:
    return edit if edit.origin is not None else edit.stamped(state.edit.origin)


def _card(ledger: Ledger, model: ModelView, state: State, ids: list[str], head: str) -> dict[str, Any]:
    """What goes with the file and is not in it: who, when, and how to check."""
    requests = [one.data() for one in ledger.standings.active]
    return {
        "ledger": {"rule": ledger.policy.rule, "policy": ledger.policy.data(), "begun": ledger.first["at"], "head": head, "entries": len(ledger.chain.bodies)},
        "base": {"model": ledger.first["model"], "family": model.family, "licence": licence(model.checkpoint.source), **ledger.first["base"]},
        "edit": {"hash": state.edit.hash, "parameters": state.edit.parameters, "kind": type(state.edit).__name__, "dtype": str(torch.float32)},
        "beside": {f"{name}.safetensors": running.hash for name, running in state.beside.items()},
        "in_force": ids,
        "requests": requests,
        "conflicts": conflicts(ledger),
        "libraries": libraries(),
        "written": ledger.chain.bodies[-1]["at"],
        "limits": "Erasing makes a concept hard to ask for; it does not prove that the weights no longer know it. `unconcept ledger audit` looks.",
    }
