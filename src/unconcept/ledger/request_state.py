"""From entries to requests: which are in force, and since when. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.errors import LedgerError, require
from ..core.hashing import hash_json
from .entry_log import EntryBody
from .entry_schema import RequestContent

ID_DIGITS = 8  # digits of an id in messages


@dataclass(frozen=True)
class RequestState:
    """One request and what became of it. It may have been added and revoked several times: the last times count."""

    id: str
    content: RequestContent
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
        told = {
            "id": self.id,
            "concepts": list(self.content.concepts),
            "anchor": list(dict.fromkeys(self.content.anchors)),
            "method": self.content.method,
        }
        when = {
            "state": self.state,
            "added": self.added,
            "revoked": self.revoked,
            "by": self.by,
            "because": self.because,
        }
        if self.revoked:
            when |= {"revoked_by": self.revoked_by, "revoked_because": self.revoked_because}
        asked = {
            "targets": list(self.content.targets),
            "retain": list(self.content.retain),
            "kind": self.content.kind,
            "settings": dict(self.content.settings),
        }
        return {**told, **when, **asked, "base": self.base, "near": [dict(one) for one in self.near]}


@dataclass
class RequestStates:
    """Requests by id in the order in which each was first added. Entries are taken in one after the other."""

    by_id: dict[str, RequestState] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of each method: the ledger's policy
    entries_read: int = 0  # entries

    def read_entries(self, bodies: Sequence[EntryBody]) -> None:
        for body in bodies[self.entries_read :]:
            if body["op"] == "add":
                self._add(body)
            elif body["op"] == "revoke":
                found = self.by_id.get(body["id"])
                if found is None:
                    raise LedgerError(
                        f"entry {body['seq']} takes back a request that was never added: the ledger was not written by"
                        " this program"
                    )
                self.by_id[found.id] = replace(
                    found, state="revoked", revoked=body["at"], revoked_by=body["by"], revoked_because=body["because"]
                )
            elif body["op"] == "init":
                self.settings[body["method"]] = body["settings"]
            self.entries_read += 1

    def _add(self, body: EntryBody) -> None:
        asked = RequestContent.of(body)
        # Of the plain data, which is what `RequestContent.id` hashes: ten thousand entries in a tenth of a second.
        message = (
            f"entry {body['seq']} (add): its id {body['id'][:ID_DIGITS]} is not the hash of what it asks: it was"
            " forged; take a copy of the ledger"
        )
        require(hash_json(body["asked"]) == body["id"], message, LedgerError)
        self.settings.setdefault(asked.method, asked.settings)
        beside: dict[str, Any] = {name: body[name] for name in ("id", "by", "because", "base", "edit")}
        lists: dict[str, Any] = {name: tuple(body[name]) for name in ("artifacts", "near")}
        self.by_id[body["id"]] = RequestState(content=asked, state="active", added=body["at"], **beside, **lists)

    @property
    def active(self) -> list[RequestState]:
        """Those in force, by id: the order of the fold."""
        return [self.by_id[id_] for id_ in sorted(self.by_id) if self.by_id[id_].state == "active"]

    def find(self, start: str) -> RequestState:
        """By the beginning of an id, `LedgerError` if none or several begin so."""
        found = [id_ for id_ in self.by_id if start and id_.startswith(start.lower())]
        shown = ", ".join(
            f"{id_[:ID_DIGITS]} ({', '.join(self.by_id[id_].content.concepts)})"
            for id_ in (found or list(self.by_id))[:6]
        )
        require(bool(found), f"no request {start!r}; known: {shown or 'none'}", LedgerError)
        require(
            len(found) == 1, f"{start!r} is the beginning of {len(found)} ids: {shown}; give more digits", LedgerError
        )
        return self.by_id[found[0]]
