"""The state of a ledger: what its requests in force are together, as edits of the base. A function of their set.

Folded in the order of `_continual-core`: edits of text encoders, then trained ones, then closed forms on top of the weights
these leave, then what runs beside the model. Within one method all requests are one, `core.request.united`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import torch

from ..core.errors import LedgerError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.request import Request, united
from ..core.versions import versions
from ..edits import DenseEdit, Edit, GatedEdit, Origin, Running, TextMapEdit, made_for
from ..edits.merge import merged, on_top
from ..methods import methods
from ..models import ModelView
from ..models.checkpoint.fingerprint import base_id, licence
from ..models.text.state_cache import Known, one_by_one
from ..training.regularisers import regularised
from .entry import Asked, restored
from .entry_log import Body
from .ledger import Ledger, set_hash, way_of
from .request_state import Standing

Tell = Callable[[str, int, int], None]  # what is done, how many of how many
NAMED = 12  # digits of an id in a file's name


@dataclass(frozen=True)
class State:
    """What the requests in force come to."""

    edit: Edit  # of weights, or all there is where one edit runs beside the model; one that changes nothing where none does
    beside: dict[str, Running] = field(default_factory=dict)  # what runs beside the model as `edit` leaves it, by the names of their files
    trained: dict[str, Edit] = field(default_factory=dict)  # what was trained for this state, by method: worth keeping

    @property
    def hash(self) -> str:
        """Of all of it."""
        return hash_json([self.edit.hash, {name: one.hash for name, one in self.beside.items()}]) if self.beside else self.edit.hash

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Inside, the model computes with all of it."""
        with ExitStack() as on:
            for edit in (self.edit, *self.beside.values()):
                on.enter_context(edit.applied(model))
            yield


def fold(ledger: Ledger, model: ModelView, active: Sequence[Standing] | None = None) -> State:
    """Of the ledger's requests in force, or of some of them. `LedgerError` if base or text encoder are not the ledger's."""
    requests = sorted(ledger.standings.active if active is None else active, key=lambda one: one.id)
    groups: dict[str, list[Standing]] = defaultdict(list)
    for one in requests:
        groups[one.asked.method].append(one)
    for method in groups or [ledger.first["method"]]:
        ledger.check_base(model, way_of(method))
        _check_version(method, groups.get(method, ()))
    if ledger.policy.rule == "sequential":
        return State(_stamped(ledger, model, _last(ledger, requests) or empty(model), requests))
    layers: list[Edit] = []
    beside, kept = dict[str, Running](), dict[str, Edit]()
    for method in sorted(groups):
        for name, (edit, own) in _parts(ledger, model, method, groups[method]).items():
            if way_of(method) == "trained" and ledger.policy.rule == "recompute":
                kept[method] = edit
            if isinstance(edit, Running):
                beside[name] = edit.stamped(origin(ledger, model, edit, own))
            else:
                layers.append(edit)
    under: Edit | None = None
    with torch.no_grad():
        for edit in sorted(layers, key=lambda edit: not reads_text(edit)):
            under = on_top(model, under, edit)
    for method in sorted(groups):
        if way_of(method) == "closed-form":
            under = _closed(ledger, model, method, groups[method], under)
    if under is None and len(beside) == 1:
        (alone,) = beside.values()
        return State(alone, {}, kept)
    return State(_stamped(ledger, model, under or empty(model), requests), beside, kept)


def _check_version(method: str, requests: Sequence[Standing]) -> None:
    """The same settings of another version give another edit: such requests are asked anew, never mixed."""
    for one in requests:
        message = f"request {one.id[:8]} asks for version {one.asked.version} of {method}, this library has {methods[method].version}: "
        require(one.asked.version == methods[method].version, message + "begin a new ledger and ask again there", LedgerError)


def empty(model: ModelView) -> TextMapEdit:
    """The edit of nobody's request: applied or baked, every bit stays."""
    width = next(iter(model.reference(list(model.text_maps())[:1]).values())).shape[1]
    return TextMapEdit(torch.zeros(0, width), torch.zeros(0, width), tuple(sorted(model.text_maps())))


def joint(requests: Sequence[Standing]) -> Request:
    """What all of them ask together."""
    return united([one.asked.request for one in requests])


def states_of(ledger: Ledger, model: ModelView, requests: Sequence[Standing]) -> Known:
    """Text states as they were kept. A text of several requests has one state: that of the smallest id."""
    known: Known = {}
    for one in sorted(requests, key=lambda one: one.id):
        for name in one.artifacts:
            for key, rows in ledger.artifacts.get_states(name).items():
                if key not in known:
                    known[key] = rows.to(model.device, model.dtype)
    return known


def _closed(ledger: Ledger, model: ModelView, method: str, requests: Sequence[Standing], under: Edit | None) -> Edit:
    # States that were kept are those of the unedited encoder: under an edited one they are read anew.
    known = {} if under is not None and reads_text(under) else states_of(ledger, model, requests)
    solver = restored(methods[method], requests[0].asked.settings)
    with one_by_one(known):
        with under.applied(model) if under else nullcontext():
            edit = solver.erase(model, joint(requests))
        return on_top(model, under, edit)


Parts = dict[str, tuple[Edit, Sequence[Standing]]]  # edits with the requests that they are of, by the names of files to stand in beside the weights


def _parts(ledger: Ledger, model: ModelView, method: str, requests: Sequence[Standing]) -> Parts:
    """Of one method whose requests need no weights of others: none of a closed form."""
    if way_of(method) == "closed-form":
        return {}
    if way_of(method) == "steering":
        steering = restored(methods[method], requests[0].asked.settings).erase(model, joint(requests))
        return {f"steering-{steering.rule.__class__.__name__.lower()}": (steering, requests)}
    if ledger.policy.rule == "merge":
        return _merged(ledger, model, method, requests)
    return {f"adapter-{method}": (_trained(ledger, model, method, requests), requests)}


def _merged(ledger: Ledger, model: ModelView, method: str, requests: Sequence[Standing]) -> Parts:
    """Changes of weights as one. Adapters stay whole, to be taken off one by one: gated ones as parts of one edit, others in files of their own."""
    edits = [ledger.artifacts.get_edit(one.edit or "") for one in requests]
    gated = [edit for edit in edits if isinstance(edit, GatedEdit)]
    if len(gated) == len(edits):
        return {f"adapter-{method}": (replace(gated[0], parts=tuple(part for edit in gated for part in edit.parts)), requests)}
    if any(isinstance(edit, Running) for edit in edits):
        return {f"adapter-{method}-{one.id[:NAMED]}": (edit, [one]) for one, edit in zip(requests, edits, strict=True)}
    return {f"adapter-{method}": (merged(model, edits, ledger.policy.merge), requests)}


def _trained(ledger: Ledger, model: ModelView, method: str, requests: Sequence[Standing]) -> Edit:
    """Trained on all of them, unless an earlier state of this very set was kept."""
    key = set_hash([one.id for one in requests])
    for body in reversed(ledger.chain.bodies):
        kept = body.get("trained", {}).get(method)
        if kept and kept["requests"] == key:
            return ledger.artifacts.get_edit(kept["edit"])
    return trained(ledger, model, requests[0].asked, joint(requests))


def trained(ledger: Ledger, model: ModelView, asked: Asked, request: Request, earlier: Sequence[str] = ()) -> Edit:
    """What a trained method makes of a request, under the ledger's regularisers; `earlier` are targets of the model as it now is."""
    with regularised(ledger.policy.regularisers, request, earlier):
        edit: Edit = restored(methods[asked.method], asked.settings).erase(model, request)
    return edit


def _last(ledger: Ledger, requests: Sequence[Standing]) -> Edit | None:
    """Under the rule sequential: all edits up to the last request."""
    latest: Body | None = next((body for body in reversed(ledger.chain.bodies) if body["op"] == "add"), None)
    if latest is None:
        return None
    if latest["id"] not in {one.id for one in requests}:
        raise LedgerError("a sequential ledger has one state, that of all its requests: no part of them can be folded")
    return ledger.artifacts.get_edit(latest["edit"])


def reads_text(edit: Edit) -> bool:
    """Whether it changes a text encoder: others see texts through it."""
    return any(name.startswith("text_encoder") for name in edit.names)


def _stamped(ledger: Ledger, model: ModelView, edit: Edit, requests: Sequence[Standing]) -> Edit:
    bare = replace(edit, origin=None, solve_figures={}) if isinstance(edit, DenseEdit | TextMapEdit) else edit
    return bare.stamped(origin(ledger, model, edit, requests))


def origin(ledger: Ledger, model: ModelView, edit: Edit, requests: Sequence[Standing]) -> Origin:
    """The header of a state: the exact set it is of, and nothing of when or by whom."""
    policy = ledger.policy.data() | {"methods": {one.asked.method: dict(one.asked.settings) for one in requests}}
    joined = joint(requests) if requests else None
    return Origin(
        method="ledger",
        settings={"rule": policy.pop("rule"), "policy": policy, "requests": [one.id for one in requests]},
        targets=joined.targets if joined else (),
        anchors=joined.anchors if joined else (),
        retain=joined.retain if joined else (),
        kind=joined.kind if joined else "object",
        family=model.family,
        base=base_id(model.name),
        base_hash=_base_hash(ledger, model, made_for(edit)),
        version=version("unconcept"),
        licence=licence(model.checkpoint.source),
        libraries=versions(),
    )


def _base_hash(ledger: Ledger, model: ModelView, names: Sequence[str]) -> str:
    """Of the tensors that are changed; hashed once a process, since they are large and were compared with the ledger's."""
    key = (id(model), tuple(names))
    if key not in ledger.hashes:
        ledger.hashes[key] = hash_tensors(model.reference(names))
    return ledger.hashes[key]
