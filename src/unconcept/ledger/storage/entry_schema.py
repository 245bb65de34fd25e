"""Schemas of ledger entries, one for each kind. Every entry is validated when it is read and when it is written."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from ...core.hashing import hash_json
from ...core.request import Request

_UPGRADE_HINT = "update unconcept if a newer one wrote it"
_Texts = Annotated[tuple[str, ...], Strict(False)]  # a list in JSON


class RequestContent(BaseModel):
    """The content of one request. Equal requests have equal ids."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    method: str
    version: int
    """Version of the method."""
    settings: Mapping[str, Any]
    """Plain data, with floats as decimal texts."""
    concepts: _Texts
    """Concepts as typed; `targets` holds all their wordings."""
    targets: _Texts
    anchors: _Texts
    retain: _Texts
    withheld: _Texts | None
    kind: str
    tokens: str
    """Which tokens of a text the method reads, if that is one of its settings."""
    token_ids: str
    """Hash of the token ids of all texts."""
    encoders: str
    """Hash of the text encoders."""

    @property
    def id(self) -> str:
        return hash_json(self.model_dump())

    @property
    def request(self) -> Request:
        return Request.recorded(self.targets, self.anchors, self.retain, self.kind, self.withheld)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "RequestContent":
        """The content of an `add` entry."""
        return cls.model_validate(body["asked"])


class _Table(BaseModel):
    """A table with at least these fields: entries of a later version may have more."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class BaseHashes(_Table):
    """Hashes of the model for which a ledger was begun."""

    text_maps: str
    encoders: str
    networks: str


class PolicyTable(_Table):
    """The policy that `LedgerPolicy` parses."""

    rule: str


class NearTarget(_Table):
    """A target in force whose text state is close to that of a new target."""

    id: str
    target: str
    to: str
    cosine: str


class TrainedEdit(_Table):
    """An edit that was trained for a state, stored for reuse."""

    requests: str
    edit: str


class AuditFindings(_Table):
    """What an audit found for one request."""

    state: str
    look: dict[str, Any]
    concepts: dict[str, dict[str, Any]]
    sheet: str | None = None
    """Name of its contact sheet; None if it kept no pictures."""


class _Entry(_Table):
    """Fields of every entry."""

    at: str
    by: str
    because: str
    seq: int
    parent: str


class _Begun(_Table):
    """Fields of the entry that begins a ledger, in every format."""

    op: Literal["init"]
    model: str
    family: str
    base: BaseHashes
    method: str
    settings: dict[str, Any]
    policy: PolicyTable


class InitEntry(_Begun, _Entry):
    """Begins a ledger."""


class AddEntry(_Entry):
    """Puts a request in force."""

    op: Literal["add"]
    id: str
    asked: RequestContent
    base: str
    artifacts: list[str]
    edit: str | None
    near: list[NearTarget]
    joins: int | None = None
    """Number of the first ask for the same request, in whatever spelling."""


class RevokeEntry(_Entry):
    """Revokes a request."""

    op: Literal["revoke"]
    id: str


class MaterializeEntry(_Entry):
    """Records the hash of the state that a set of requests gave."""

    op: Literal["materialize"]
    requests: str
    state: str
    libraries: dict[str, Any]
    trained: dict[str, TrainedEdit]


class AuditEntry(_Entry):
    """Records whether a concept came back after a fine-tune."""

    op: Literal["audit"]
    requests: list[str]
    found: AuditFindings


_LedgerEntry = Annotated[InitEntry | AddEntry | RevokeEntry | MaterializeEntry | AuditEntry, Field(discriminator="op")]
_ENTRY: TypeAdapter[_LedgerEntry] = TypeAdapter(_LedgerEntry)


class _SealedEntry(_Table):
    """Fields of every entry of format 2. What it says of persons and requests is in the private file."""

    format: Literal[2]
    at: str
    seq: int
    parent: str
    sealed: dict[str, str]
    """A commitment to each private part, by name."""


class SealedInit(_Begun, _SealedEntry):
    """Begins a ledger."""


class SealedAsk(_SealedEntry):
    """One ask for a request: the request is in force while one of its asks stands."""

    op: Literal["add"]


class SealedWithdrawal(_SealedEntry):
    """Takes one ask back."""

    op: Literal["revoke"]
    ask: int
    """Number of the `add` entry."""


class SealedState(_SealedEntry):
    """Records the hash of the state that a set of requests gave."""

    op: Literal["materialize"]
    libraries: dict[str, Any]


class SealedAudit(_SealedEntry):
    """Records whether a concept came back after a fine-tune."""

    op: Literal["audit"]


class ForgetEntry(_SealedEntry):
    """Destroys private parts of earlier entries."""

    op: Literal["forget"]
    ask: int
    """Number of the withdrawn `add` entry that was to be forgotten."""
    forgets: dict[str, list[str]]
    """Names of the parts by the number of their entry."""


_SealedUnion = Annotated[
    SealedInit | SealedAsk | SealedWithdrawal | SealedState | SealedAudit | ForgetEntry, Field(discriminator="op")
]
_SEALED: TypeAdapter[_SealedUnion] = TypeAdapter(_SealedUnion)
_NEEDED_PARTS = {"add": {"who", "what"}, "materialize": {"who", "state"}, "audit": {"who", "found", "state"}}


def schema_error(body: Any) -> str | None:
    """Describe what is wrong with the form of an entry as the chain holds it; None if it is valid."""
    sealed = isinstance(body, dict) and "format" in body
    try:
        (_SEALED if sealed else _ENTRY).validate_python(body)
    except ValidationError as error:
        return _describe(body, error)
    if sealed and (missing := _NEEDED_PARTS.get(body["op"], {"who"}) - body["sealed"].keys()):
        return f"({body['op']}) has no commitment to its {', '.join(sorted(missing))}: {_UPGRADE_HINT}"
    if (body["op"] == "init") != (body["seq"] == 0):
        return f"({body['op']}) is in the wrong place: a ledger has exactly one init entry, and it comes first"
    return None


def content_error(body: Any) -> str | None:
    """Describe what is wrong with an entry of format 2 joined with all its parts; None if it is valid."""
    if body["op"] == "forget":
        return None
    try:
        _ENTRY.validate_python(body)
    except ValidationError as error:
        return _describe(body, error)
    return None


def _describe(body: Any, error: ValidationError) -> str:
    """Name the fields that are missing or invalid, by their outermost names."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "union_tag_invalid" and isinstance(body["op"], str):
        return f"({body['op']}) is an entry of a kind that this library does not know: {_UPGRADE_HINT}"
    names = list(dict.fromkeys(str(fault["loc"][1]) for fault in faults if len(fault["loc"]) > 1))
    if not names or set(names) & {*_Entry.model_fields, *_SealedEntry.model_fields}:
        return f"is not an entry: {_UPGRADE_HINT}"
    return f"({body['op']}) has a form that this library does not know, see its {', '.join(names)}: {_UPGRADE_HINT}"
