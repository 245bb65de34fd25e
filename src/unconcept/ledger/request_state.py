"""Derives from the entries which requests are in force, and since when. Pure functions."""

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
    """One request and its status. A request may be added and revoked several times: the last time of each counts."""

    id: str
    content: RequestContent
    state: Literal["active", "revoked"]
    added: str
    by: str
    because: str
    base: str  # hash of the parts that its method may change
    artifacts: tuple[str, ...] = ()  # files with its text states
    edit: str | None = None  # its own edit; under the rule sequential all edits up to it, stacked
    near: tuple[Mapping[str, Any], ...] = ()  # targets close to its own when it was added
    revoked: str | None = None
    revoked_by: str = ""
    revoked_because: str = ""

    def data(self) -> dict[str, Any]:
        """Plain data, as `status --json` prints it."""
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
    """All requests by id, in the order in which each was first added; updated entry by entry."""

    by_id: dict[str, RequestState] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of each method: the ledger's policy
    entries_read: int = 0

    def read_entries(self, bodies: Sequence[EntryBody]) -> None:
        for body in bodies[self.entries_read :]:
            if body["op"] == "add":
                self._add(body)
            elif body["op"] == "revoke":
                found = self.by_id.get(body["id"])
                if found is None:
                    raise LedgerError(
                        f"entry {body['seq']} revokes a request that was never added: the ledger was changed by hand;"
                        " restore the ledger from a copy"
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
            f"entry {body['seq']} (add): its id {body['id'][:ID_DIGITS]} is not the hash of its request: it was"
            " forged; restore the ledger from a copy"
        )
        require(hash_json(body["asked"]) == body["id"], message, LedgerError)
        self.settings.setdefault(asked.method, asked.settings)
        beside: dict[str, Any] = {name: body[name] for name in ("id", "by", "because", "base", "edit")}
        lists: dict[str, Any] = {name: tuple(body[name]) for name in ("artifacts", "near")}
        self.by_id[body["id"]] = RequestState(content=asked, state="active", added=body["at"], **beside, **lists)

    @property
    def active(self) -> list[RequestState]:
        """The requests in force, sorted by id: the order in which they are folded."""
        return [self.by_id[id_] for id_ in sorted(self.by_id) if self.by_id[id_].state == "active"]

    def find(self, start: str) -> RequestState:
        """Find a request by the beginning of its id; `LedgerError` if no id or several ids begin with it."""
        found = [id_ for id_ in self.by_id if start and id_.startswith(start.lower())]
        shown = ", ".join(
            f"{id_[:ID_DIGITS]} ({', '.join(self.by_id[id_].content.concepts)})"
            for id_ in (found or list(self.by_id))[:6]
        )
        require(bool(found), f"no request has an id that begins with {start!r}; known: {shown or 'none'}", LedgerError)
        require(len(found) == 1, f"{len(found)} ids begin with {start!r}: {shown}; give more digits", LedgerError)
        return self.by_id[found[0]]
