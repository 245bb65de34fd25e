"""What an entry of each kind holds, as models: whatever is read is checked against them before anything uses it, and
whatever is written too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from ..core.hashing import hash_json
from ..core.request import Request

_UPGRADE_HINT = "update unconcept if a newer one wrote it"
_Texts = Annotated[tuple[str, ...], Strict(False)]  # a list in JSON


class RequestContent(BaseModel):
    """One request. Who asks the same has the same id."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    method: str
    version: int
    """Of the method."""
    settings: Mapping[str, Any]
    """Plain: numbers with a fraction are decimal texts."""
    concepts: _Texts
    """As typed; their wordings are the targets."""
    targets: _Texts
    anchors: _Texts
    retain: _Texts
    withheld: _Texts | None
    kind: str
    tokens: str
    """Which tokens of a text the method reads, where that is a setting."""
    token_ids: str
    """Hash of the ids of all texts."""
    encoders: str
    """Hash of the text encoders."""

    @property
    def id(self) -> str:
        return hash_json(self.model_dump())

    @property
    def request(self) -> Request:
        return Request(self.targets, self.anchors, self.retain, self.kind, self.withheld)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "RequestContent":
        """What an entry asks."""
        return cls.model_validate(body["asked"])


class _Table(BaseModel):
    """Holds at least this: entries of a later version may say more."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class BaseHashes(_Table):
    """Hashes of the model that a ledger is of."""

    text_maps: str
    encoders: str
    networks: str


class PolicyTable(_Table):
    """What `LedgerPolicy` reads."""

    rule: str


class NearTarget(_Table):
    """A target in force that almost reads like a new one."""

    id: str
    target: str
    to: str
    cosine: str


class TrainedEdit(_Table):
    """What was trained for a state, kept for the next."""

    requests: str
    edit: str


class AuditFindings(_Table):
    """What an audit found of one request."""

    state: str
    look: dict[str, Any]
    concepts: dict[str, dict[str, Any]]


class _Entry(_Table):
    """What every entry says."""

    at: str
    by: str
    because: str
    seq: int
    parent: str


class InitEntry(_Entry):
    """Begins a ledger."""

    op: Literal["init"]
    model: str
    family: str
    base: BaseHashes
    method: str
    settings: dict[str, Any]
    policy: PolicyTable


class AddEntry(_Entry):
    """Puts a request in force."""

    op: Literal["add"]
    id: str
    asked: RequestContent
    base: str
    artifacts: list[str]
    edit: str | None
    near: list[NearTarget]


class RevokeEntry(_Entry):
    """Takes a request back."""

    op: Literal["revoke"]
    id: str


class MaterializeEntry(_Entry):
    """Says which bytes a set of requests came to."""

    op: Literal["materialize"]
    requests: str
    state: str
    libraries: dict[str, Any]
    trained: dict[str, TrainedEdit]


class AuditEntry(_Entry):
    """Says whether a concept came back."""

    op: Literal["audit"]
    requests: list[str]
    found: AuditFindings


LedgerEntry = Annotated[InitEntry | AddEntry | RevokeEntry | MaterializeEntry | AuditEntry, Field(discriminator="op")]
_ENTRY: TypeAdapter[LedgerEntry] = TypeAdapter(LedgerEntry)


def schema_error(body: Any) -> str | None:
    """What is wrong with the form of an entry; None for one that can be read."""
    try:
        _ENTRY.validate_python(body)
    except ValidationError as error:
        return _describe(body, error)
    if (body["op"] == "init") != (body["seq"] == 0):
        return f"({body['op']}) stands in the wrong place: a ledger begins with init, and with that alone"
    return None


def _describe(body: Any, error: ValidationError) -> str:
    """Names what is missing or holds something else, by its outermost name."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "union_tag_invalid" and isinstance(body["op"], str):
        return f"({body['op']}) is of a kind that this library does not know: {_UPGRADE_HINT}"
    names = list(dict.fromkeys(str(fault["loc"][1]) for fault in faults if len(fault["loc"]) > 1))
    if not names or set(names) & set(_Entry.model_fields):
        return f"is no entry: {_UPGRADE_HINT}"
    return f"({body['op']}) is of a form that this library does not know, see its {', '.join(names)}: {_UPGRADE_HINT}"
