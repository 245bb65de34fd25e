"""Splits an entry of format 2 into what the chain holds and its private parts, and joins both again.

| entry | in the chain | parts |
|---|---|---|
| every | kind, time, number, parent | `who`: by, because, recorded_by |
| init | model, base, method, settings, policy | |
| add | | `what`: id and content, artifacts; `near 0`, ...: each similar target |
| revoke | number of the `add` that it takes back | |
| materialize | libraries | `state`: hashes of set and state; `trained METHOD`: an edit kept for reuse |
| audit | | `found`; `state` |
| forget | the parts that it destroys | |
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .private_file import PRIVATE_FILE, EntryParts

SEALED_FORMAT = 2
EntryBody = dict[str, Any]
ForgottenParts = dict[int, frozenset[str]]  # names of destroyed parts by entry
_WHO = ("by", "because", "recorded_by")
_WHAT = ("id", "asked", "base", "artifacts", "edit", "joins")
_STATE = ("requests", "state")


def seal_body(body: Mapping[str, Any]) -> tuple[EntryBody, dict[str, Mapping[str, Any]]]:
    """Split an entry into its public body and its parts by name."""
    told = dict(body)
    parts: dict[str, Mapping[str, Any]] = {"who": _taken(told, _WHO)}
    match told["op"]:
        case "add":
            parts["what"] = _taken(told, _WHAT)
            parts |= {f"near {number}": dict(one) for number, one in enumerate(told.pop("near"))}
        case "materialize":
            parts["state"] = _taken(told, _STATE)
            parts |= {f"trained {method}": dict(one) for method, one in told.pop("trained").items()}
        case "audit":
            found = dict(told.pop("found"))
            parts["state"] = {"state": found.pop("state")}
            parts["found"] = {"requests": told.pop("requests"), "found": found}
    return {"format": SEALED_FORMAT, **told}, parts


def _taken(body: EntryBody, names: Iterable[str]) -> dict[str, Any]:
    return {name: body.pop(name) for name in names}


def reveal_body(public: Mapping[str, Any], parts: EntryParts) -> EntryBody:
    """Join a public body with the parts that are left of it. An entry of format 1 comes back as it is."""
    if "format" not in public:
        return dict(public)
    body = dict.fromkeys(_WHO, "") | dict(public)
    data = {name: dict(parts[name].data) for name in body.pop("sealed") if name in parts}
    body |= data.get("who", {})
    match body["op"]:
        case "add":
            body |= data.get("what", {})
            body["near"] = [data[name] for name in sorted(data) if name.startswith("near ")]
        case "materialize":
            body |= data.get("state", {})
            trained = {name.removeprefix("trained "): one for name, one in data.items() if name.startswith("trained ")}
            body["trained"] = trained
        case "audit" if "found" in data:
            body |= {
                "requests": data["found"]["requests"],
                "found": {**data.get("state", {}), **data["found"]["found"]},
            }
    return body


def forgotten_parts(bodies: Iterable[Mapping[str, Any]]) -> ForgottenParts:
    """All parts that `forget` entries name."""
    found: ForgottenParts = {}
    for body in bodies:
        if body["op"] == "forget":
            for entry, names in body["forgets"].items():
                found[int(entry)] = found.get(int(entry), frozenset()) | frozenset(names)
    return found


def forgotten_asks(bodies: Iterable[Mapping[str, Any]]) -> list[int]:
    """Numbers of the `add` entries that `forget` entries were written for."""
    return sorted({body["ask"] for body in bodies if body["op"] == "forget"})


def sealed_faults(
    bodies: Iterable[Mapping[str, Any]], stored: Mapping[int, EntryParts], forgotten: ForgottenParts
) -> list[str]:
    """What is wrong with the private parts of these entries: missing, changed, or named by no entry."""
    faults = []
    for body in bodies:
        name, parts = f"{PRIVATE_FILE}: entry {body['seq']} ({body['op']})", stored.get(body["seq"], {})
        sealed: Mapping[str, str] = body.get("sealed", {})
        gone = forgotten.get(body["seq"], frozenset())
        for part in sorted(sealed.keys() - parts.keys() - gone):
            faults.append(f"{name}: its part {part!r} is missing")
        for part in sorted(parts.keys() - sealed.keys()):
            faults.append(f"{name} does not have the part {part!r} that stands beside it")
        for part in sorted(sealed.keys() & parts.keys() - gone):
            if parts[part].commitment != sealed[part]:
                faults.append(f"{name}: its part {part!r} was changed: it does not match the entry")
    return faults
