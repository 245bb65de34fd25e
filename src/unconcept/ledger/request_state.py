"""From entries to requests: which are in force, and since when. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.errors import LedgerError, require
from ..core.hashing import hash_json
from .entry import Asked
from .entry_log import Body

SHOWN = 8  # digits of an id in messages


@dataclass(frozen=True)
class Standing:
    """One request and what became of it. It may have been added and revoked several times: the last times count."""

    id: str
    asked: Asked
    state: Literal["active", "revoked"]
    added: str
    by: str
    because: str
    base: str  # hash of what its method may touch
    artifacts: tuple[str, ...] = ()  # its text states
    edit: str | None = None  # its own edit; under the rule sequential all edits up to it
    near: tuple[Mapping[str, Any], ...] = ()  # what it was close to when it was added
    revoked: str | None = None
    revoked_by: str = ""
    revoked_because: str = ""

    def data(self) -> dict[str, Any]:
        """As `status --json` prints it."""
        told = {"id": self.id, "concepts": list(self.asked.concepts), "anchor": list(dict.fromkeys(self.asked.anchors)), "method": self.asked.method}
        when = {"state": self.state, "added": self.added, "revoked": self.revoked, "by": self.by, "because": self.because}
        if self.revoked:
            when |= {"revoked_by": self.revoked_by, "revoked_because": self.revoked_because}
        asked = {"targets": list(self.asked.targets), "retain": list(self.asked.retain), "kind": self.asked.kind, "settings": dict(self.asked.settings)}
        return {**told, **when, **asked, "base": self.base, "near": [dict(one) for one in self.near]}


@dataclass
class Standings:
    """Requests by id in the order in which each was first added. Entries are taken in one after the other."""

    known: dict[str, Standing] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of each method: the ledger's policy
    taken: int = 0  # entries

    def take(self, bodies: Sequence[Body]) -> None:
        for body in bodies[self.taken :]:
            if body["op"] == "add":
                self._add(body)
            elif body["op"] == "revoke":
                found = self.known.get(body["id"])
                if found is None:
                    raise LedgerError(f"entry {body['seq']} takes back a request that was never added: the ledger was not written by this program")
                self.known[found.id] = replace(found, state="revoked", revoked=body["at"], revoked_by=body["by"], revoked_because=body["because"])
            elif body["op"] == "init":
                self.settings[body["method"]] = body["settings"]
            self.taken += 1

    def _add(self, body: Body) -> None:
        asked = Asked.of(body)
        # Of the plain data, which is what `Asked.id` hashes: ten thousand entries in a tenth of a second.
        message = f"entry {body['seq']} (add): its id {body['id'][:SHOWN]} is not the hash of what it asks: it was forged; take a copy of the ledger"
        require(hash_json(body["asked"]) == body["id"], message, LedgerError)
        self.settings.setdefault(asked.method, asked.settings)
        beside: dict[str, Any] = {name: body[name] for name in ("id", "by", "because", "base", "edit")}
        lists: dict[str, Any] = {name: tuple(body[name]) for name in ("artifacts", "near")}
        self.known[body["id"]] = Standing(asked=asked, state="active", added=body["at"], **beside, **lists)

    @property
    def active(self) -> list[Standing]:
        """Those in force, by id: the order of the fold."""
        return [self.known[id_] for id_ in sorted(self.known) if self.known[id_].state == "active"]

    def find(self, start: str) -> Standing:
        """By the beginning of an id, `LedgerError` if none or several begin so."""
        found = [id_ for id_ in self.known if start and id_.startswith(start.lower())]
        shown = ", ".join(f"{id_[:SHOWN]} ({', '.join(self.known[id_].asked.concepts)})" for id_ in (found or list(self.known))[:6])
        require(bool(found), f"no request {start!r}; known: {shown or 'none'}", LedgerError)
        require(len(found) == 1, f"{start!r} is the beginning of {len(found)} ids: {shown}; give more digits", LedgerError)
        return self.known[found[0]]
