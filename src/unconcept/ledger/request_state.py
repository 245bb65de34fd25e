"""Derives from the entries which requests are in force, who asks for each, and since when. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.errors import LedgerError, require
from ..core.hashing import hash_json
from .storage.entry_schema import RequestContent
from .storage.sealed_entries import EntryBody

ID_DIGITS = 8  # digits of an id in messages


@dataclass(frozen=True)
class Withdrawal:
    """The entry that took an ask back."""

    entry: int
    at: str
    because: str
    recorded_by: str


@dataclass(frozen=True)
class AskedContent:
    """What one ask is for, as its texts were typed, and what was made of it."""

    id: str
    content: RequestContent
    base: str = ""  # hash of the parts that its method may change
    artifacts: tuple[str, ...] = ()  # files with its text states
    edit: str | None = None  # its own edit; under the rule sequential all edits up to it, stacked
    near: tuple[Mapping[str, Any], ...] = ()  # targets close to its own when it was added


@dataclass(frozen=True)
class Ask:
    """One ask for a request: who, when, why and in which words. It stands until it is withdrawn."""

    entry: int
    at: str
    by: str
    because: str
    recorded_by: str
    made: AskedContent
    withdrawn: Withdrawal | None = None

    def __str__(self) -> str:
        return f"entry {self.entry} by {self.by or 'somebody unnamed'} at {self.at[:19]}"

    def data(self) -> dict[str, Any]:
        """Plain data."""
        told = {name: value for name, value in vars(self).items() if name not in ("made", "withdrawn")}
        words = {"id": self.made.id, "concepts": list(self.made.content.concepts)}
        return {**told, **words, "withdrawn": None if self.withdrawn is None else vars(self.withdrawn).copy()}


@dataclass(frozen=True)
class StateChange:
    """The entry with which a request came into force or went out of it."""

    body: EntryBody
    op: Literal["add", "revoke"]
    group: int


@dataclass(frozen=True)
class RequestState(AskedContent):
    """One request and all asks for it. It is in force while one of them stands.

    Asks whose texts the model reads alike are one request. Of several spellings, the one with the smallest id counts
    among those that are asked for, whatever came first.
    """

    asks: tuple[Ask, ...] = ()  # in the order in which they came; forgotten ones are missing
    added: str = ""  # when it last came into force
    group: int = -1  # number of the entry of its first ask, forgotten or not

    @classmethod
    def of(cls, asks: tuple[Ask, ...], added: str, group: int) -> "RequestState":
        """The state that these asks give; of asks in the same words, the last one counts."""
        made = min(_standing(asks) or asks, key=lambda ask: (ask.made.id, -ask.entry)).made
        near = made.near or next((ask.made.near for ask in asks if ask.made.near and ask.made.id == made.id), ())
        about = (made.id, made.content, made.base, made.artifacts, made.edit, near)
        return cls(*about, asks=asks, added=added, group=group)

    @property
    def standing(self) -> tuple[Ask, ...]:
        """The asks that were not withdrawn."""
        return _standing(self.asks)

    @property
    def state(self) -> Literal["active", "revoked"]:
        return "active" if self.standing else "revoked"

    @property
    def revocation(self) -> Withdrawal | None:
        """The withdrawal of the last ask; None while one stands."""
        gone = [ask.withdrawn for ask in self.asks if ask.withdrawn is not None]
        return None if self.standing or not gone else max(gone, key=lambda one: one.entry)

    @property
    def revoked(self) -> str | None:
        """When the request went out of force; None while it is in force."""
        return self.revocation.at if self.revocation else None

    def data(self) -> dict[str, Any]:
        """Plain data, as `status --json` prints it, with who asks and why."""
        first = (self.standing or self.asks[-1:])[0]
        who: dict[str, Any] = {
            "by": first.by,
            "because": first.because,
            "asked_by": list(dict.fromkeys(ask.by for ask in self.standing)),
            "asks": [ask.data() for ask in self.asks],
        }
        if self.revocation:
            who |= {"revoked_by": self.revocation.recorded_by, "revoked_because": self.revocation.because}
        return {**self.public_data(), **who, "near": [dict(one) for one in self.near]}

    def public_data(self) -> dict[str, Any]:
        """Plain data that names nobody, as a card that ships may hold it."""
        return {
            "id": self.id,
            "concepts": list(self.content.concepts),
            "anchor": list(dict.fromkeys(self.content.anchors)),
            "method": self.content.method,
            "state": self.state,
            "added": self.added,
            "revoked": self.revoked,
            "asks_in_force": len(self.standing),
            "targets": list(self.content.targets),
            "retain": list(self.content.retain),
            "kind": self.content.kind,
            "settings": dict(self.content.settings),
            "base": self.base,
        }


def _standing(asks: tuple[Ask, ...]) -> tuple[Ask, ...]:
    return tuple(ask for ask in asks if ask.withdrawn is None)


@dataclass
class RequestStates:
    """All requests by id, in the order in which each was first added; updated entry by entry."""

    by_id: dict[str, RequestState] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of each method: the ledger's policy
    changes: list[StateChange] = field(default_factory=list)  # of the set in force, in order
    entries_read: int = 0
    _ids: dict[int, str] = field(default_factory=dict)  # present id by group
    _groups: dict[str, int] = field(default_factory=dict)  # by every id that an ask has

    def read_entries(self, bodies: Sequence[EntryBody]) -> None:
        """Read the entries that are new. Forgotten ones change nothing."""
        for body in bodies[self.entries_read :]:
            if body["op"] == "add" and "id" in body:
                self._add(body)
            elif body["op"] == "revoke" and "id" in body:
                self._withdraw(body)
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
        lists = (tuple(body["artifacts"]), body["edit"], tuple(body["near"]))
        made = AskedContent(body["id"], asked, body["base"], *lists)
        ask = Ask(body["seq"], body["at"], body["by"], body["because"], body.get("recorded_by", ""), made)
        joined: int | None = body.get("joins")
        group = joined if joined is not None else self._groups.get(body["id"], int(body["seq"]))
        before = self.of_group(group)
        is_in_force = before is not None and before.state == "active"
        if not is_in_force:
            self.changes.append(StateChange(body, "add", group))
        asks = (*(before.asks if before else ()), ask)
        self._groups[body["id"]] = group
        self._put(RequestState.of(asks, before.added if before and is_in_force else body["at"], group))

    def _put(self, state: RequestState) -> None:
        before = self._ids.get(state.group, state.id)
        if before != state.id:  # In its old place: a sequence is folded in the order of adding.
            self.by_id = {state.id if id_ == before else id_: one for id_, one in self.by_id.items()}
        self.by_id[state.id], self._ids[state.group] = state, state.id

    def _withdraw(self, body: EntryBody) -> None:
        """Take back the ask that an entry names; in format 1 it names the request, and every ask of it goes."""
        found = self.get(body["id"])
        if found is None:
            raise LedgerError(
                f"entry {body['seq']} revokes a request that was never added: the ledger was changed by hand;"
                " restore the ledger from a copy"
            )
        gone = Withdrawal(body["seq"], body["at"], body["because"], body.get("recorded_by") or body["by"])
        taken = {body["ask"]} if "ask" in body else {ask.entry for ask in found.standing}
        asks = tuple(replace(ask, withdrawn=gone) if ask.entry in taken else ask for ask in found.asks)
        left = RequestState.of(asks, found.added, found.group)
        if found.state == "active" and left.state == "revoked":
            self.changes.append(StateChange(body, "revoke", found.group))
        self._put(left)

    @property
    def active(self) -> list[RequestState]:
        """The requests in force, sorted by id: the order in which they are folded."""
        return [self.by_id[id_] for id_ in sorted(self.by_id) if self.by_id[id_].state == "active"]

    def get(self, id_: str) -> RequestState | None:
        """The request that some ask named by this id; None if there is none."""
        return self.of_group(self._groups[id_]) if id_ in self._groups else None

    def of_group(self, group: int) -> RequestState | None:
        """The request of a group; None if no ask of it is left."""
        return self.by_id[self._ids[group]] if group in self._ids else None

    def find(self, start: str) -> RequestState:
        """Find a request by the beginning of the id of an ask; `LedgerError` if none or several fit."""
        groups = {group for id_, group in self._groups.items() if start and id_.startswith(start.lower())}
        found = [one for one in self.by_id.values() if one.group in groups]
        shown = ", ".join(
            f"{one.id[:ID_DIGITS]} ({', '.join(one.content.concepts)})"
            for one in (found or list(self.by_id.values()))[:6]
        )
        require(bool(found), f"no request has an id that begins with {start!r}; known: {shown or 'none'}", LedgerError)
        require(len(found) == 1, f"{len(found)} ids begin with {start!r}: {shown}; give more digits", LedgerError)
        return found[0]

    def find_ask(self, entry: int) -> tuple[RequestState, Ask] | None:
        """The ask of an `add` entry with its request; None if it is forgotten or the entry is none."""
        for one in self.by_id.values():
            for ask in one.asks:
                if ask.entry == entry:
                    return one, ask
        return None
