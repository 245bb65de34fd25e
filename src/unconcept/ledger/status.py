"""Converts a ledger to plain data, as `status --json` prints it."""

from typing import Any

from .conflicts import find_conflicts
from .ledger import Ledger
from .storage.garbage_collection import gc_paused
from .storage.sealed_entries import EntryBody, forgotten_asks


def ledger_status(ledger: Ledger, torn: bool = False) -> dict[str, Any]:
    """Summarise a ledger; requests stand in the order in which each was first added. Needs no model."""
    with gc_paused():
        return _told(ledger, torn)


def _told(ledger: Ledger, torn: bool) -> dict[str, Any]:
    first, bodies = ledger.first, ledger.entry_log.bodies
    requests = [one.data() for one in ledger.request_states.by_id.values()]
    audits: dict[str, list[dict[str, Any]]] = {}
    for body in bodies:
        if body["op"] == "audit" and "found" in body:
            seen = {"at": body["at"], "entry": body["seq"], **body["found"]}
            for id_ in body["requests"]:
                known = ledger.request_states.get(id_)
                audits.setdefault(known.id if known else id_, []).append(seen)
    for one in requests:
        one["audits"] = audits.get(one["id"], [])
    return {
        "rule": ledger.policy.rule,
        "base": {"model": first["model"], "family": first["family"], **first["base"]},
        "policy": {
            **ledger.policy.data(),
            "methods": {method: dict(known) for method, known in ledger.request_states.settings.items()},
        },
        "begun": first["at"],
        "entries": len(bodies),
        "head": ledger.entry_log.last,
        "torn": torn,
        "forgotten": forgotten_asks(bodies),
        "active": sum(one["state"] == "active" for one in requests),
        "requests": requests,
        "conflicts": find_conflicts(ledger),
        "materialized": [_materialized(body) for body in bodies if body["op"] == "materialize"],
    }


def _materialized(body: EntryBody) -> dict[str, Any]:
    return {"at": body["at"], "requests": body.get("requests"), "state": body.get("state")}
